"""A task from the user's own Python file, which exposes `task(**arguments)`: samples, metrics, loss, all of it.

What it returns is any object with these members, looked up by name; nothing of this package has to be imported:

| member | |
|---|---|
| `metrics` | objects with `name`, `statistic(prediction, target)`; where the score is no mean, `compute(statistics)` |
| `eval_samples(split)` | any iterable of (id, raw, target); `train` is calibrated on |
| `preprocess(raw)` | the inputs of one sample by name, numpy, without batch axis |
| `decode(outputs)` | the prediction for one sample from the outputs by name, numpy, without batch axis |
| `train_batches(split, seed, epoch)` | any iterable of (inputs, target) in torch, for stages that train |
| `loss(outputs, target)` | a scalar, for stages that train |
| `distance(student, teacher)` | optional: a scalar, for distillation |
| `dynamic`, `timed` | optional: sizes that exported files leave open, as in a recipe |
| `classes`, `name`, `output_names`, `licence`, `notes` | optional; `notes`: lines for the readers of a result |
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.code_inputs import recorded_dependencies, undeclared_inputs
from pipeline.core.dataset import SPLITS
from pipeline.core.errors import InputError
from pipeline.core.local_imports import ImportableFolder
from pipeline.core.task import Task
from pipeline.core.user_code import import_file, user_code_errors
from pipeline.data.task_members import check_inputs, checked_metrics, names_member, text_member

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.dataset import Places, SplitName
    from pipeline.core.feeds import Feeds
    from pipeline.core.task import Metric

_NEEDED = ("metrics", "eval_samples", "preprocess", "decode")
#: Names that a message lists.
_SHOWN = 3


class FileTask:
    """What a user's file gave, as a kit and as data."""

    kind = "file"

    def __init__(
        self,
        given: Any,  # noqa: ANN401 - any object
        path: Path,
        arguments: Mapping[str, Any],
        beside: ImportableFolder,
    ) -> None:
        self.given, self.path, self.arguments, self._beside = given, path, dict(arguments), beside
        self.notes = _lines(getattr(given, "notes", ()), path)
        self.name, self.licence = text_member(given, "name", path.stem, path), text_member(given, "licence", "", path)
        self.classes = names_member(given, "classes", path)
        self.output_names = names_member(given, "output_names", path)
        self.metrics: tuple[Metric, ...] = checked_metrics(given, path, beside)
        self._splits: dict[SplitName, tuple[list[Any], list[Any]]] = {}
        self._places: dict[str, SplitName] = {}

    @contextmanager
    def calling(self, call: str) -> Iterator[None]:
        """Within the block, which calls the file, modules beside it can be imported; what it raises is an InputError.

        `call` is what the message says has failed, such as decode(outputs).
        """
        with self._beside, user_code_errors(f"{self.path}: {call} failed", alone=True):
            yield

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> Any:  # noqa: ANN401 - as the user decides
        """Return the prediction for one sample."""
        with self.calling("decode(outputs)"):
            return self.given.decode(dict(outputs))

    def count(self, split: SplitName) -> int:
        """Return the number of samples in a split."""
        return len(self._samples(split)[0])

    def feeds(self, split: SplitName, places: Places) -> Feeds:
        """Return the inputs of the samples at these places, each made by `preprocess`."""
        chosen = _chosen(self._samples(split)[0], places)
        with self.calling("preprocess(raw)"):
            ready = [self.given.preprocess(raw) for raw in chosen]
        for each in ready:
            check_inputs(each, ready[0], self.path)
        return {name: np.stack([each[name] for each in ready]) for name in ready[0]} if ready else {}

    def targets(self, split: SplitName, places: Places) -> list[Any]:
        """Return the targets of the samples at these places."""
        return _chosen(self._samples(split)[1], places)

    def raw_samples(self, split: SplitName, places: Places) -> list[Any]:
        """Return the samples at these places as `preprocess` is given them."""
        return _chosen(self._samples(split)[0], places)

    def _samples(self, split: SplitName) -> tuple[list[Any], list[Any]]:
        if split not in self._splits:
            with self.calling(f"eval_samples({split!r})"):
                found = [*self.given.eval_samples(split)]
            if not found or not all(isinstance(each, tuple) and len(each) == 3 for each in found):  # noqa: PLR2004
                raise InputError(
                    f"{self.path}: eval_samples({split!r}) gave {_kind(found)}, expected samples (id, raw, target)"
                )
            ids = [str(each[0]) for each in found]
            self._check_ids(ids, split)
            self._splits[split] = [each[1] for each in found], [each[2] for each in found]
        return self._splits[split]

    def _check_ids(self, ids: list[str], split: SplitName) -> None:
        twice = sorted({each for each in ids if each in self._places} or _repeated(ids))
        if twice:
            where = f"also in {self._places[twice[0]]}" if twice[0] in self._places else "twice"
            raise InputError(
                f"{self.path}: eval_samples({split!r}) gives the sample {', '.join(twice[:_SHOWN])}, which is {where}: "
                "expected an id of its own for each sample, and no sample in two splits"
            )
        self._places |= dict.fromkeys(ids, split)


def load_task_file(path: Path, arguments: Mapping[str, Any], inputs: Sequence[Path] = ()) -> Task:
    """Import the file, call its `task` and take all its samples; modules beside the file can be imported there.

    What it reads until then and `inputs` do not name is told in the notes; what it reads later is not seen.

    Raises:
        InputError: it returns nothing that has the members of a task, with all that are missing.
    """
    beside = ImportableFolder(path.parent)
    with beside, recorded_dependencies(path) as read:
        found = _called(path, arguments)
        kit = FileTask(found, path, arguments, beside)
        for split in SPLITS:  # all of them, so that ids are compared before anything runs
            kit.count(split)
    kit.notes += undeclared_inputs(read, path, arguments, inputs, "task task")
    return Task(kit, kit, kit.output_names)


def _called(path: Path, arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any object
    """Return what `task` of a file returns. Raises InputError when members are missing."""
    with user_code_errors(f"task file {path} cannot be imported", alone=True):
        module = import_file(path, "secateur_task")
    if not callable(getattr(module, "task", None)):
        raise InputError(f"{path} has no function task(**arguments) that returns the task")
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    with user_code_errors(f"{path}: task({given}) failed", alone=True):
        found = module.task(**arguments)
    missing = [name for name in _NEEDED if not hasattr(found, name)]
    if missing:
        raise InputError(f"{path}: task() returned {type(found).__name__} without {', '.join(missing)}, which it needs")
    return found


def _chosen(values: list[Any], places: Places) -> list[Any]:
    return values[places] if isinstance(places, slice) else [values[place] for place in places]


def _lines(found: Any, path: Path) -> tuple[str, ...]:  # noqa: ANN401 - whatever the user's code gave
    """Return what the user notes about the data. Raises InputError when it is no sequence of texts."""
    if isinstance(found, (list, tuple)) and all(isinstance(each, str) for each in found):
        return tuple(found)
    raise InputError(f"{path}: notes is {found!r}, expected a list of texts")


def _repeated(ids: list[str]) -> set[str]:
    seen: set[str] = set()
    return {each for each in ids if each in seen or seen.add(each)}  # type: ignore[func-returns-value]


def _kind(found: object) -> str:
    if isinstance(found, list) and not found:
        return "nothing"
    return f"a {type(found[0] if isinstance(found, list) else found).__name__}"
