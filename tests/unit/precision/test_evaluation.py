"""What candidates are judged by: real runtimes on small files; one measurement of a real worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError, StageError
from pipeline.core.nearness import MOST_DECIBELS
from pipeline.core.stage import SilentProgress, Target
from pipeline.data.arrays import image_classifier
from pipeline.onnx_graph.file import write_onnx
from pipeline.precision.evaluation import Evaluation
from tests.feeds import fed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime

CLASSES = 3
PIXELS = np.arange(5 * 3, dtype=np.uint8).reshape(5, 3, 1, 1)
HELD_OUT = np.random.default_rng(0).standard_normal((5, 3, 1, 1), dtype=np.float32)
both_runtimes = pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])


class Counting(Normalisation):
    """Remembers how many images were normalised at a time."""

    def __call__(self, images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalise."""
        sizes.append(len(images_NCHW))
        return super().__call__(images_NCHW)


sizes: list[int] = []


def write(
    folder: Path,
    name: str,
    operators: Sequence[str] = ("Flatten",),
    *,
    factors: Sequence[float] = (1, 1, 1),
    batch: int | str = 1,
) -> Path:
    """Write a file that multiplies each channel by its factor; operators come before it."""
    names = ["input", *(f"value{place}" for place in range(len(operators)))]
    nodes = [
        helper.make_node(operator, [given], [made])
        for operator, given, made in zip(operators, names[:-1], names[1:], strict=True)
    ]
    nodes.append(helper.make_node("Mul", [names[-1], "factors"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 1, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(np.array(factors, np.float32), "factors")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    write_onnx(model, folder / name)
    return folder / name


def evaluation(
    runtime: Runtime = "onnxruntime", *, batch: int = 1, images: NDArray[np.float32] = HELD_OUT
) -> Evaluation:
    """Return an evaluation on five images whose last channel is the brightest."""
    split, counting = Split(PIXELS, np.array([2, 2, 2, 2, 0])), Counting((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Evaluation(
        runtime=runtime,
        target=Target(runtime=runtime, batch=batch),
        held_out=fed(images),
        task=image_classifier(Dataset("brightness", ("a", "b", "c"), counting, split, split, split)),
        seed=0,
        progress=SilentProgress(),
    )


@both_runtimes
@pytest.mark.parametrize("batch", [1, 2, 8, None])
def test_noise_is_that_of_the_logits(runtime: Runtime, batch: int | None, tmp_path: Path) -> None:
    """One part in a hundred is 40 dB, in calls of any batch, and where the file leaves it open."""
    files = [
        write(tmp_path, name, factors=factors, batch=batch or "batch")
        for name, factors in (("a.onnx", (1, 1, 1)), ("b.onnx", (1.01, 1.01, 1.01)))
    ]
    found = evaluation(runtime, batch=batch or 4)
    assert found.decibels(*files) == pytest.approx(40.0, abs=0.01)
    assert found.decibels(files[0], files[0]) == MOST_DECIBELS
    np.testing.assert_allclose(found._held_out[files[0]][0], HELD_OUT.reshape(5, 3), rtol=1e-6)


def test_noise_without_a_signal_is_as_bad_as_it_gets(tmp_path: Path) -> None:
    """Nothing but noise; and nothing at all is equal."""
    silent, loud = (write(tmp_path, f"{factor}.onnx", factors=[factor] * 3) for factor in (0, 1))
    assert evaluation().decibels(silent, loud) == -MOST_DECIBELS
    assert evaluation().decibels(silent, silent) == MOST_DECIBELS


@both_runtimes
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_accuracy_is_taken_on_every_validation_image_once(runtime: Runtime, batch: int, tmp_path: Path) -> None:
    """The last call is filled up; images are normalised as they are needed."""
    good, other = write(tmp_path, "a.onnx", batch=batch), write(tmp_path, "b.onnx", factors=(9, 1, 1), batch=batch)
    found = evaluation(runtime, batch=batch)
    sizes.clear()
    assert found.score(good) == pytest.approx(0.8)
    assert found.score(good) == pytest.approx(0.8)
    assert (sum(sizes), len(sizes)) == (5, -(-5 // batch))
    assert found.score(other) == pytest.approx(0.4)
    assert found.difference(good, other).value == pytest.approx(-0.4)


def test_logits_that_are_not_finite_are_no_class_and_no_noise(tmp_path: Path) -> None:
    """A NaN must not win an image, nor be taken for a class."""
    broken = write(tmp_path, "a.onnx", ["Flatten", "Log"], factors=(0, 1, 1))
    found = evaluation(images=-np.ones_like(HELD_OUT))
    with pytest.raises(StageError, match=r"a\.onnx: its outputs on training images are not finite in onnxruntime"):
        found.decibels(broken, broken)
    assert found.score(broken) == pytest.approx(0.2)  # the first image has a channel of zero: 0 log 0
    assert found._predicted(broken)[0] == -1


@both_runtimes
def test_a_file_that_a_runtime_cannot_read_is_told(runtime: Runtime, tmp_path: Path) -> None:
    """With its name and the runtime's."""
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"nonsense")
    with pytest.raises(InputError, match=rf"broken\.onnx: {runtime} .*cannot read it"):
        evaluation(runtime).decibels(file, file)


def test_a_file_that_fails_when_it_runs_is_told(tmp_path: Path) -> None:
    """As one that cannot be read: the search drops it."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["input", "shape"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 1, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [7, 1])],
        [numpy_helper.from_array(np.array([7, 1]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    write_onnx(model, tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"a\.onnx: onnxruntime cannot run it: "):
        evaluation().score(tmp_path / "a.onnx")


def test_files_are_timed_and_refused_by_the_worker(tmp_path: Path) -> None:
    """Paired with the first; a refusal is of one file beside it, and of the first one an error."""
    files = [write(tmp_path, f"{place}.onnx") for place in range(2)]
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nonsense")
    infinite = write(tmp_path, "infinite.onnx", factors=(float("inf"), 1, 1))
    found = evaluation()
    first, second = found.timed(files, 0.4)
    assert first.speedup is None
    assert second.speedup is not None
    assert second.speedup.low < 1.5
    assert first.milliseconds.value > 0
    with pytest.raises(InputError, match="cannot read it"):
        found.timed([*files, broken], 0.4)
    reasons = found.refusals([*files, broken, infinite])
    assert reasons[:2] == ["", ""]
    assert "cannot read it" in reasons[2]
    assert "not finite" in reasons[3]
    with pytest.raises(InputError, match="cannot read it"):
        found.refusals([broken, *files])
