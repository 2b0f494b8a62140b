# SPDX-License-Identifier: Apache-2.0
"""Predictions and other arrays of a bundle's samples: as .npz files, in words, and compared."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from ..infer import Rejected, reason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

#: What the arrays of one file take at most.
BYTES_AT_MOST = 1 << 30
#: Kinds of numpy's types that can be kept: truth values, numbers and text.
KEPT = frozenset("biufcU")
PREDICTION = "prediction"
#: How far decoded numbers may lie from those that another numpy decoded from the same outputs, and from those of other
#: outputs which are within their tolerance, as shares of the largest.
SAME, NEAR = 1e-4, 0.1
#: Numbers that a line of text has at most.
SHOWN = 8


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name. Raises Rejected for what is none, or holds anything but arrays."""
    try:
        with zipfile.ZipFile(file) as packed:
            _check_size(file, sum(each.file_size for each in packed.infolist()))
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Rejected:
        raise
    except Exception as error:  # of many kinds, down to those of Python's tokenizer
        raise Rejected(f"{file} is not an .npz file of arrays ({reason(error)})") from error


def _check_size(file: Path, size: int) -> None:
    if size > BYTES_AT_MOST:
        raise Rejected(f"{file} holds {size:,} bytes, allowed: {BYTES_AT_MOST:,}")


def prediction_arrays(prediction: Any, name: str = PREDICTION) -> dict[str, NDArray[Any]]:  # noqa: ANN401
    """Return a prediction as arrays by name: "prediction", or "prediction.boxes" and so on of dicts, lists and tuples.

    Raises:
        Rejected: there is something in it that is neither a number nor text nor an array of these.
    """
    if isinstance(prediction, dict):
        parts = [prediction_arrays(value, f"{name}.{key}") for key, value in prediction.items()]
        return {key: value for part in parts for key, value in part.items()}
    if isinstance(prediction, (list, tuple)) and any(not _is_plain(each) for each in prediction):
        parts = [prediction_arrays(value, f"{name}.{place}") for place, value in enumerate(prediction)]
        return {key: value for part in parts for key, value in part.items()}
    values = np.asarray(prediction)
    if values.dtype.kind not in KEPT:
        raise Rejected(f"{name} is a {type(prediction).__name__}, allowed: numbers, text, arrays, lists, tuples, dicts")
    return {name: values}


def _is_plain(value: object) -> bool:
    return isinstance(value, (bool, int, float, str, np.generic))


def prediction_text(prediction: Any) -> str:  # noqa: ANN401 - whatever the task decodes
    """Return a prediction in a line for each of its arrays, where a task has no words of its own."""
    lines = []
    for name, values in prediction_arrays(prediction).items():
        flat = values.ravel()
        numbers = ", ".join(f"{each:.4g}" if values.dtype.kind == "f" else str(each) for each in flat[:SHOWN])
        more = f" and {flat.size - SHOWN} more, {list(values.shape)}" if flat.size > SHOWN else ""
        label = name.partition(".")[2]
        lines.append(f"{label}{': ' if label else ''}{numbers or 'none'}{more}")
    return "\n".join(lines) or "nothing"


def prediction_lists(prediction: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever the task decodes
    """Return a prediction's arrays by name as JSON has them, with null for what is not finite."""
    found: dict[str, Any] = {}
    for name, values in prediction_arrays(prediction).items():
        plain = values.astype(object)
        if values.dtype.kind == "f":
            plain[~np.isfinite(values)] = None
        found[name] = plain.tolist() if values.dtype.kind != "c" else [str(each) for each in values.ravel()]
    return found


def first_difference(expected: Arrays, found: Arrays, share: float) -> str:
    """Say in which array two predictions differ first; empty where they do not.

    Numbers with a fraction may differ by a share of the largest; all else has to be equal.
    """
    if set(expected) != set(found):
        return f"it has {', '.join(sorted(found)) or 'nothing'}, expected {', '.join(sorted(expected)) or 'nothing'}"
    for name, wanted in expected.items():
        other = found[name]
        if wanted.shape != other.shape or wanted.dtype.kind != other.dtype.kind:
            kinds = [f"{each.dtype.name} {list(each.shape)}" for each in (other, wanted)]
            return f"{name} is {kinds[0]}, expected {kinds[1]}"
        wrong = ~_close(wanted, other, share)
        if wrong.any():
            place = tuple(int(each) for each in np.argwhere(wrong)[0])
            pair = f"{other[place]}, expected {wanted[place]}"
            return f"{int(wrong.sum())} of {wanted.size} values of {name} differ, first {pair} at {list(place)}"
    return ""


def _close(wanted: NDArray[Any], other: NDArray[Any], share: float) -> NDArray[np.bool_]:
    if wanted.dtype.kind not in "fc":
        return np.asarray(wanted == other)
    finite = np.abs(wanted[np.isfinite(wanted)])
    largest = float(finite.max()) if finite.size else 0.0
    close: NDArray[np.bool_] = np.isclose(other, wanted, rtol=0, atol=share * largest, equal_nan=True)
    return close
