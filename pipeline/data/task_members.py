"""What the members of a task from the user's own file have to be: one message for each that is something else."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import getattr_static, isfunction
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.core.local_imports import ImportableFolder

#: What a score is beside the metrics; none of them can be called so.
_TAKEN = "images"
#: Kinds of numpy's types that a network's inputs may have.
_NUMBERS = "biufc"


@dataclass(frozen=True)
class FileMetric:
    """A metric of the user's, with what it left out: a share whose score is the mean over samples."""

    name: str
    unit: str
    range: tuple[float, float]
    higher_is_better: bool
    is_mean: bool
    given: Any
    where: str
    beside: ImportableFolder

    def statistic(self, prediction: Any, target: Any) -> Any:  # noqa: ANN401 - whatever the metric keeps
        """Return what one sample contributes. Raises InputError where that has to be a number and is none."""
        with self.beside:
            found = self.given.statistic(prediction, target)
        averaged = self.is_mean or getattr(self.given, "compute", None) is None
        return self._number(found, "statistic(prediction, target)") if averaged else found

    def compute(self, statistics: Sequence[Any]) -> float:
        """Return the score of the samples with these statistics. Raises InputError when it is no number."""
        own = getattr(self.given, "compute", None)
        if own is None:
            return float(np.mean(statistics))
        with self.beside:
            found = own(statistics)
        return float(self._number(found, "compute(statistics)"))

    def _number(self, found: Any, call: str) -> Any:  # noqa: ANN401 - a number of any library's
        if isinstance(found, Real | np.bool_):
            return found
        if getattr(found, "ndim", None) == 0 and not isinstance(found, np.generic):  # an array or tensor of one number
            return self._number(found.item(), call)
        shape = f" of shape {[*found.shape]}" if hasattr(found, "shape") else ""
        raise InputError(f"{self.where}: {call} returned {shown(found)}{shape}, expected a number")


def checked_metrics(given: Any, path: Path, beside: ImportableFolder) -> tuple[FileMetric, ...]:  # noqa: ANN401 - any object
    """Return the metrics of a task. Raises InputError that names the member, what it is and what it should be."""
    found = _member(given, "metrics", _is_list, "a list of metrics", f"{path}: ")
    metrics = tuple(_metric(each, f"{path}: metrics[{place}]", beside) for place, each in enumerate(found))
    if not metrics:
        raise InputError(f"{path}: the task has no metrics, expected at least one: the first is judged")
    names = [metric.name for metric in metrics]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise InputError(f"{path}: metrics has {twice[0]} twice, expected a name of its own for each")
    return metrics


def _metric(given: Any, where: str, beside: ImportableFolder) -> FileMetric:  # noqa: ANN401 - any object
    kind = given if isinstance(given, type) else type(given)
    if isinstance(given, type) and isfunction(getattr_static(given, "statistic", None)):
        raise InputError(f"{where} is the class {kind.__name__}, expected an object of it: {kind.__name__}()")
    if not callable(getattr(given, "statistic", None)):
        raise InputError(f"{where} is {shown(given)}, which has no function statistic(prediction, target)")
    of = f"{where}."
    compute = _member(given, "compute", _is_function, "a function compute(statistics)", of)
    low, high = _member(given, "range", _is_range, "two numbers, the lower one first", of, default=(0.0, 1.0))
    return FileMetric(
        name=_member(given, "name", _is_name, f"a text other than {_TAKEN!r}", of, default=kind.__name__),
        unit=_member(given, "unit", _is_text, "a text", of, default=""),
        range=(float(low), float(high)),
        higher_is_better=bool(_member(given, "higher_is_better", _is_truth, "True or False", of, default=True)),
        is_mean=bool(_member(given, "is_mean", _is_truth, "True or False", of, default=compute is None)),
        given=given,
        where=where,
        beside=beside,
    )


def text_member(given: Any, name: str, default: str, path: Path) -> str:  # noqa: ANN401 - any object
    """Return a member that is a text. Raises InputError when it is something else."""
    return str(_member(given, name, _is_text, "a text", f"{path}: ", default=default))


def names_member(given: Any, name: str, path: Path) -> tuple[str, ...]:  # noqa: ANN401 - any object
    """Return a member that is a list of names, or of what stands for them. Raises InputError when it is no list."""
    return tuple(map(str, _member(given, name, _is_list, "a list of names", f"{path}: ", default=())))


def check_inputs(found: Any, first: Mapping[str, Any], path: Path) -> None:  # noqa: ANN401 - whatever the user's code gave
    """Check what `preprocess` returned for a sample. Raises InputError when it is no dict of arrays of one shape."""
    expected = "a dict of numpy arrays of numbers by input name"
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: preprocess(raw) returned {shown(found)}, expected {expected}")
    for name, each in found.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: preprocess(raw) returned the input name {name!r}, expected {expected}")
        if not isinstance(each, np.ndarray) or each.dtype.kind not in _NUMBERS:
            kind = f" of {each.dtype}" if isinstance(each, np.ndarray) else ""
            raise InputError(f"{path}: preprocess(raw) returned {shown(each)}{kind} for {name}, expected {expected}")
    shapes, others = ({name: each.shape for name, each in which.items()} for which in (found, first))
    if shapes != others:
        raise InputError(
            f"{path}: preprocess(raw) gives {shapes} for one sample and {others} for another, expected one shape: pad, "
            "crop or resize there"
        )


def shown(found: object) -> str:
    """Write what was found: plain values as they are, others by what they are."""
    plain = found is None or isinstance(found, str | Real | list | tuple | dict)
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return reprlib.repr(found) if plain else f"a {type(found).__name__}"


def _member(
    given: Any,  # noqa: ANN401 - any object
    name: str,
    allowed: Callable[[Any], bool],
    said: str,
    where: str,
    *,
    default: Any = None,  # noqa: ANN401
) -> Any:  # noqa: ANN401 - any object
    """Return a member, or the default where there is none. Raises InputError that names it where it is not allowed."""
    found = getattr(given, name, default)
    if allowed(found):
        return found
    raise InputError(f"{where}{name} is {shown(found)}, expected {said}")


def _is_function(found: object) -> bool:
    return found is None or callable(found)


def _is_list(found: object) -> bool:
    return isinstance(found, Iterable) and not isinstance(found, str | bytes)


def _is_text(found: object) -> bool:
    return isinstance(found, str)


def _is_name(found: object) -> bool:
    return isinstance(found, str) and found.strip() not in {"", _TAKEN}


def _is_truth(found: object) -> bool:
    return isinstance(found, bool | np.bool_)


def _is_range(found: Any) -> bool:  # noqa: ANN401 - whatever the user's code gave
    if not isinstance(found, tuple | list | np.ndarray) or len(found) != 2:  # noqa: PLR2004 - its ends
        return False
    return all(isinstance(each, Real) and not isinstance(each, bool) for each in found) and bool(found[0] < found[1])
