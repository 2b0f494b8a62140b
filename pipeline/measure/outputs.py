"""What networks compute, compared before any of them is timed: a broken file is fast for the wrong reason."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import InputError, OutputsError
from pipeline.results.measurement import OutputCheck

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_IMAGE_DIMENSIONS = 4


def require_sound(label: str, runtime: str, outputs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse outputs that are not finite.

    Raises:
        OutputsError: one has NaN or infinity.
    """
    if not all(each["finite"] for each in outputs):
        raise OutputsError(f"{label} in {runtime} returns values that are not finite; not timed")


def compare_outputs(
    first: str, expected: Mapping[str, Any], label: str, found: Mapping[str, Any], tolerance: float | None
) -> OutputCheck | None:
    """Compare what the worker told of two networks after the same inputs; None where one takes images of another size.

    Of large outputs the same part of both is compared. `tolerance` is relative to the largest output of the first.
    Images of two sizes are not the same inputs, so that nothing can be said of what is computed from them.

    Raises:
        InputError: their inputs differ.
        OutputsError: their outputs differ in shape, or by more than `tolerance`.
    """
    takes, expects = ([(tuple(p["shape"]), p["dtype"]) for p in each["inputs"]] for each in (found, expected))
    if takes != expects and [*map(_unsized, takes)] == [*map(_unsized, expects)]:
        return None
    if takes != expects:
        raise InputError(
            f"{label} takes inputs {_listed(takes)}, {first} {_listed(expects)}; only networks with the same inputs "
            "can be compared"
        )
    shapes, others = ([tuple(o["shape"]) for o in each["outputs"]] for each in (found, expected))
    if shapes != others:
        raise OutputsError(f"{label} returns shapes {shapes}, {first} {others}; not timed")
    check = _distance(expected["outputs"], found["outputs"])
    if tolerance is not None and not check.relative <= tolerance:
        raise OutputsError(
            f"{label} differs from {first} by {check.max_abs:.3g}, {check.relative:.2%} of its largest output; "
            f"allowed: {tolerance:.2%}; not timed. If it differs by design (pruned, quantized), allow more: --tolerance"
        )
    return check


def _unsized(port: tuple[tuple[int, ...], str]) -> tuple[tuple[int, ...], str]:
    """Return an input without height and width where it has them: images [N, C, H, W]."""
    shape, dtype = port
    return (shape[:2] if len(shape) == _IMAGE_DIMENSIONS else shape), dtype


def _listed(ports: Sequence[tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{list(shape)} {dtype}" for shape, dtype in ports)


def _distance(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> OutputCheck:
    a, b = (np.concatenate([_values(each) for each in side]).astype(np.float64) for side in (expected, found))
    max_abs = float(np.abs(a - b).max(initial=0))
    largest = max(each["largest"] for each in expected)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return OutputCheck(
        max_abs=max_abs,
        relative=max_abs / largest if largest else float(max_abs > 0),
        cosine=float(a @ b) / lengths if lengths else float(not a.any() and not b.any()),
    )


def _values(output: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(output["values"]), dtype="<f4")
