"""What makes a candidate: engine, request, steps that bring accuracy back, nodes in float; and other precisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from onnx import numpy_helper

from pipeline.core.errors import InputError
from pipeline.core.feeds import sample_count
from pipeline.onnx_graph.file import is_quantized
from pipeline.precision import variant as variant_module
from pipeline.precision.rows import Precision
from pipeline.precision.variant import IMAGES, Variant, build, other_precision
from tests.defaults import asked
from tests.feeds import fed
from tests.unit.precision.search_fixtures import SAMPLES, network

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.names import Recovery
    from pipeline.core.feeds import Feeds

PLAIN = Variant("onnxruntime", asked("u8s8", calibration="min-max"))


class Texts:
    """Remembers what was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def update(self, done: float, total: float, text: str = "") -> None:
        """Remember it."""
        assert done <= total
        self.told.append(text)

    def note(self, text: str) -> None:
        """Remember it."""
        self.told.append(text)


def stored(model: ModelProto) -> dict[str, NDArray[np.generic]]:
    """Return the stored tensors by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_nodes_in_float_are_added_to_those_of_the_recipe() -> None:
    """Each once, in order; a name is a pattern for itself alone."""
    variant = Variant("nncf", asked("u8s8", keep=("head*",))).keeping(("a[0]", "b")).keeping(("b", "c*"))
    assert variant.in_float == ("a[0]", "b", "c*")
    assert variant.asked.keep == ("head*", "a[[]0]", "b", "c[*]")
    assert variant.request.keep == ("head*",)
    assert variant.recovered(("bias",)).in_float == variant.in_float


@pytest.mark.parametrize(
    ("recovery", "changed"),
    [
        ((), set()),
        (("bias",), {"b3_quantized", "b4_quantized"}),
        (("equalize",), {"w2_scale", "w3_quantized"}),
        (("adaround",), {"w1_quantized", "w3_quantized"}),
    ],
)
def test_each_step_changes_what_it_is_for(recovery: tuple[Recovery, ...], changed: set[str]) -> None:
    """Biases, weights before they are rounded, or how they are rounded; the graph stays the same."""
    plain, other = (build(network(), fed(SAMPLES), variant).model for variant in (PLAIN, PLAIN.recovered(recovery)))
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in other.graph.node]
    tensors = stored(plain), stored(other)
    differs = {name for name, values in tensors[0].items() if not np.array_equal(values, tensors[1][name])}
    assert differs >= changed
    assert differs or not recovery


@pytest.mark.parametrize(("recovery", "method"), [("bias", "correct_biases"), ("adaround", "round_adaptively")])
def test_recovery_holds_a_bounded_number_of_images(
    recovery: Recovery, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activations of all layers on them are in memory at once."""
    seen: list[int] = []

    def spy(_: ModelProto, quantized: ModelProto, samples: Feeds, **__: object) -> tuple[ModelProto, object]:
        seen.append(sample_count(samples))
        return quantized, None

    monkeypatch.setattr(variant_module, method, spy)
    for images in (12, IMAGES + 20):
        build(network(), fed(np.resize(SAMPLES, (images, 3, 8, 8))), PLAIN.recovered((recovery,)))
    assert seen == [12, IMAGES]


def test_rounding_tells_how_far_it_is() -> None:
    """Layer by layer, since it takes long."""
    progress = Texts()
    build(network(), fed(SAMPLES), PLAIN.recovered(("adaround",)), progress)
    assert [text for text in progress.told if text] == [f"rounding {name}" for name in ("stem", "dw", "point", "fc")]


@pytest.mark.parametrize("precision", [each for each in get_args(Precision) if each != "bf16"])
def test_other_precisions_are_files_of_their_own(precision: Precision) -> None:
    """Only one of them computes in integers; bf16 is an option of runtimes."""
    made = other_precision(network(), precision)
    assert is_quantized(made) == (precision == "int8-dynamic")
    assert made != network()


@pytest.mark.parametrize("precision", ["fp16", "fp16-weights", "int8-weights", "int4-weights", "int8-dynamic"])
def test_what_is_kept_stays_in_float(precision: Precision) -> None:
    """A pattern without a match is an error in each of them, as is one that leaves nothing over."""
    with pytest.raises(InputError, match='keep: "nowhere" matches no node'):
        other_precision(network(), precision, keep=("nowhere",))
    kept = other_precision(network(), precision, keep=("stem",))
    assert np.array_equal(stored(kept).get("w1", stored(kept).get("w1.wide")), stored(network())["w1"])
    if precision != "fp16":
        with pytest.raises(InputError, match="found no"):
            other_precision(network(), precision, keep=("*",))
