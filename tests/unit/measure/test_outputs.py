"""What networks compute is compared before they are timed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import InputError, OutputsError
from pipeline.measure.outputs import compare_outputs, require_sound
from pipeline.measure.worker_bench import TOLD, _told

if TYPE_CHECKING:
    from pipeline.results.measurement import OutputCheck

PORTS: list[dict[str, Any]] = [{"name": "image", "shape": [1, 3], "dtype": "float32"}]


def told(*outputs: Any, inputs: list[dict[str, Any]] | None = None) -> dict[str, Any]:  # noqa: ANN401
    """Return what a worker tells of these outputs, as it arrives."""
    content = {"inputs": inputs or PORTS, "outputs": [_told(np.asarray(each, np.float32)) for each in outputs]}
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def compared(expected: dict[str, Any], found: dict[str, Any], tolerance: float | None = None) -> OutputCheck:
    """Compare two networks by their usual names."""
    check = compare_outputs("base", expected, "net", found, tolerance)
    assert check is not None
    return check


def test_equal_outputs_have_no_distance() -> None:
    """Equal numbers differ by nothing and point the same way."""
    check = compared(told([1, -2], [3]), told([1, -2], [3]), 0.0)
    assert (check.max_abs, check.relative) == (0, 0)
    assert check.cosine == pytest.approx(1)


def test_distance_is_relative_to_the_largest_output_of_the_first() -> None:
    """A difference of 0.5 where the largest output is 4 is 12.5 %."""
    check = compared(told([1, -4]), told([1.5, -4]))
    assert (check.max_abs, check.relative) == (0.5, 0.125)
    assert 0.9 < check.cosine < 1


def test_largest_output_may_be_in_another_output() -> None:
    """All outputs together set the scale."""
    assert compared(told([1], [100]), told([2], [100])).relative == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("base", "net", "relative", "cosine"), [([0, 0], [0, 0], 0, 1), ([0, 0], [0, 1], 1, 0), ([0, 1], [0, 0], 1, 0)]
)
def test_outputs_of_nothing_but_zeros(base: list[float], net: list[float], relative: float, cosine: float) -> None:
    """Zeros equal zeros; anything else is all of the difference that there can be."""
    check = compared(told(base), told(net))
    assert (check.relative, check.cosine) == (relative, cosine)


def test_difference_beyond_the_tolerance_is_refused() -> None:
    """The message has both names, how far, and what to do where that is meant."""
    with pytest.raises(
        OutputsError, match=r"net differs from base by 0\.5, 12\.50% of its largest output; allowed: 10\.00%.*--tol"
    ):
        compared(told([1, -4]), told([1.5, -4]), 0.1)


def test_difference_at_the_tolerance_is_allowed() -> None:
    """What is allowed is allowed."""
    assert compared(told([1, -4]), told([1.5, -4]), 0.125).max_abs == 0.5


@pytest.mark.parametrize("other", [told([1, 2, 3]), told([[1, 2]]), told([1], [2])])
def test_other_shapes_are_refused(other: dict[str, Any]) -> None:
    """Another size, another number of dimensions, another number of outputs."""
    with pytest.raises(OutputsError, match=r"net returns shapes .*, base \[\(2,\)\]; not timed"):
        compared(told([1, 2]), other)


@pytest.mark.parametrize(
    "inputs",
    [
        [{"name": "image", "shape": [2, 3], "dtype": "float32"}],
        [{"name": "image", "shape": [1, 3], "dtype": "float16"}],
        [*PORTS, *PORTS],
    ],
)
def test_other_inputs_are_refused(inputs: list[dict[str, Any]]) -> None:
    """Another size, type or number of inputs: these are not two versions of one network."""
    with pytest.raises(InputError, match=r"net takes inputs \[.*, base \[1, 3\] float32; only networks with the same"):
        compared(told([1]), told([1], inputs=inputs))


def test_images_of_another_size_are_not_compared() -> None:
    """Nothing can be said; another number of channels is another network."""
    image, smaller, grey = (
        [{"name": "image", "shape": [1, *shape], "dtype": "float32"}] for shape in ((3, 8, 8), (3, 6, 6), (1, 6, 6))
    )
    assert compare_outputs("base", told([1], inputs=image), "net", told([9], inputs=smaller), 0.0) is None
    with pytest.raises(InputError, match="only networks with the same inputs"):
        compared(told([1], inputs=image), told([1], inputs=grey))


def test_names_of_inputs_may_differ() -> None:
    """Two exports of one network may name its input differently."""
    renamed = [{**PORTS[0], "name": "pixels"}]
    assert compared(told([1]), told([1], inputs=renamed), 0.0).max_abs == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    """One such value in any output is enough."""
    with pytest.raises(OutputsError, match="net in openvino returns values that are not finite; not timed"):
        require_sound("net", "openvino", told([1], [0, value])["outputs"])


def test_value_that_is_not_finite_is_found_beyond_what_is_told() -> None:
    """The worker looks at all numbers of a large output, though it tells only some."""
    output = np.zeros(3 * TOLD, np.float32)
    output[1] = np.nan
    with pytest.raises(OutputsError, match="not finite"):
        require_sound("net", "onnxruntime", told(output)["outputs"])
    assert compared(told(np.ones(3 * TOLD)), told(np.ones(3 * TOLD))).max_abs == 0


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20),
    factor=st.sampled_from([0.25, 0.5, 2.0, 64.0]),
)
def test_relative_difference_does_not_depend_on_scale(values: list[float], factor: float) -> None:
    """Networks that compute in other units differ by the same share."""
    base = np.array(values, np.float32)
    net = base[::-1]
    plain = compared(told(base), told(net))
    scaled = compared(told(base * np.float32(factor)), told(net * np.float32(factor)))
    assert scaled.relative == pytest.approx(plain.relative)
    assert -1.001 <= scaled.cosine <= 1.001
