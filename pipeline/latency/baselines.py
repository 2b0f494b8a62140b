"""The store of a gate: baseline files by their hash, what was accepted and why, and what was found over time.

    files/<digest>/<names>     the files themselves
    baselines.jsonl            one line for each acceptance; the last of a model counts
    history/<key>.jsonl        one line for each measurement, by machine, model and metric

Lines are only ever appended, so that the folder can live in git and be merged. What is read is checked: every line
against its type, every file against its hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pipeline.core.artifact import FrozenModel, file_digest
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.partial import append_line, write_whole
from pipeline.core.stage import Runtime
from pipeline.results.comparison import ReasonCode, Verdict
from pipeline.results.gate import Check
from pipeline.results.measurement import MUST_MATCH
from pipeline.results.run import Interval

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.measure.model_files import ModelFiles
    from pipeline.results.comparison import Comparison
    from pipeline.results.measurement import Measurement

FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
Line = TypeVar("Line", bound=BaseModel)
DIGEST = r"^[0-9a-f]{64}$"


class AcceptedTerms(FrozenModel):
    """On what terms a baseline was accepted. `machine` has the fields of the fingerprint that must match."""

    runtime: Runtime
    runtime_version: str
    options: dict[str, str]
    threads: int
    batch: int
    input_shapes: dict[str, tuple[int, ...]]
    pause_ns: int
    metric: str
    device: str
    machine: dict[str, Any]


class Baseline(FrozenModel):
    """One acceptance. `files` has the sha256 of each file by name, the main one first."""

    schema_version: Literal[1] = 1
    model: str
    digest: str = Field(pattern=DIGEST)
    files: dict[str, str] = Field(min_length=1)
    created: str
    reason: str = Field(min_length=1)
    reference: bool = Field(default=False, description="the file against which drift is measured from now on")
    terms: AcceptedTerms


class SeriesPoint(FrozenModel):
    """One measurement of a model: candidate over baseline, or over the frozen reference."""

    schema_version: Literal[1] = 1
    created: str
    check: Check
    baseline: str
    candidate: str
    verdict: Verdict
    reasons: tuple[ReasonCode, ...]
    ratio: Interval


class BaselineStore:
    """The folder of a gate's baselines."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder; it is made when something is accepted."""
        self.folder = folder

    def baselines(self) -> dict[str, Baseline]:
        """Return the current baseline of each model.

        Raises:
            InputError: a line is damaged; the message names it.
        """
        return {each.model: each for each in self._accepted()}

    def reference(self, model: str) -> Baseline | None:
        """Return the frozen reference of a model: the first that was accepted, or the last that was made one."""
        mine = [each for each in self._accepted() if each.model == model]
        return next((each for each in reversed(mine) if each.reference), mine[0] if mine else None)

    def file(self, baseline: Baseline) -> Path:
        """Return the main file of a baseline, or the folder of a torch network, with all its files checked.

        Raises:
            InputError: a name leads out of its folder, or a file is missing or was changed.
        """
        folder = self.folder / "files" / baseline.digest
        for name, sha256 in baseline.files.items():
            if not FILE_NAME.fullmatch(name):
                raise InputError(f"{self.folder}: baseline of {baseline.model} has a file named {name!r}; refused")
            path = folder / name
            if not path.is_file() or path.is_symlink():
                raise InputError(
                    f"{path} of the baseline of {baseline.model} is missing; restore it, or accept a new baseline"
                )
            if file_digest(path) != sha256:
                raise InputError(
                    f"{path} was changed since it was accepted (sha256); restore it, or accept a new baseline"
                )
        return folder if baseline.terms.runtime == "torch" else folder / next(iter(baseline.files))

    def accept(self, baseline: Baseline, source: ModelFiles) -> None:
        """Keep a model's files and make them its baseline.

        Raises:
            InputError: a file's name has other characters than letters, digits, dot, hyphen and underscore.
            ResourceError: the store cannot be written.
        """
        strange = [name for name in source.files if not FILE_NAME.fullmatch(name)]
        if strange:
            raise InputError(f"found a file named {strange[0]!r}, allowed: letters, digits, . - _; rename it")
        folder = self.folder / "files" / baseline.digest
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, path in source.files.items():
                write_whole(folder / name, path.read_bytes())
        except OSError as error:
            raise ResourceError(f"{folder} cannot be written: {error.strerror}") from error
        self._append("baselines.jsonl", baseline)

    def record(self, key: str, point: SeriesPoint) -> None:
        """Add a measurement to the history of a key."""
        self._append(f"history/{key}.jsonl", point)

    def history(self, key: str) -> list[SeriesPoint]:
        """Return the measurements of a key, oldest first.

        Raises:
            InputError: a line is damaged.
        """
        return self._lines(f"history/{key}.jsonl", SeriesPoint)

    def _accepted(self) -> list[Baseline]:
        return self._lines("baselines.jsonl", Baseline)

    def _lines(self, name: str, kind: type[Line]) -> list[Line]:
        path = self.folder / name
        if not path.is_file():
            return []
        found: list[Line] = []
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                found.append(kind.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise InputError(
                    f"{path}:{number} is damaged ({f'{where}: ' if where else ''}{first['msg']}); remove that line"
                ) from error
        return found

    def _append(self, name: str, line: BaseModel) -> None:
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, line.model_dump_json())
        except OSError as error:
            raise ResourceError(f"{path} cannot be written: {error.strerror}") from error


def terms_of(measurement: Measurement, metric: str | None) -> AcceptedTerms:
    """Return the terms of a measurement's candidate."""
    subject = measurement.subjects[1]
    return AcceptedTerms(
        runtime=subject.runtime,
        runtime_version=subject.runtime_version,
        options=subject.options,
        threads=subject.threads,
        batch=measurement.batch,
        input_shapes=subject.input_shapes,
        pause_ns=measurement.pause_ns,
        metric=metric or "time",
        device=subject.device,
        machine={name: subject.fingerprint.get(name) for name in MUST_MATCH},
    )


def changed_terms(then: AcceptedTerms, now: AcceptedTerms, *, any_machine: bool) -> tuple[str, ...]:
    """Return what is other than when the baseline was accepted, one `field: then, now` each."""
    before, after = (json.loads(each.model_dump_json()) for each in (then, now))
    machines = before.pop("machine"), after.pop("machine")
    fields = [(name.replace("_", " "), before[name], after[name]) for name in before if name != "options"]
    options = {*before["options"], *after["options"]}
    fields += [(f"runtime option {o}", before["options"].get(o), after["options"].get(o)) for o in sorted(options)]
    if not any_machine:
        fields += [(name, machines[0].get(name), machines[1].get(name)) for name in MUST_MATCH]
    return tuple(f"{name}: {old!r} when accepted, {new!r} now" for name, old, new in fields if old != new)


def history_key(comparison: Comparison, model: str, check: str) -> str:
    """Return the key of a history: the model, the metric and what must match of the machine and runtime, as a hash."""
    side = comparison.candidate
    fields = {
        "machine": {name: side.fingerprint.get(name) for name in MUST_MATCH},
        "runtime": [side.runtime, side.runtime_version, side.threads],
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]
    return f"{model}-{comparison.metric}-{check}-{digest}"
