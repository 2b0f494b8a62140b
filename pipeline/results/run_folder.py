"""What a run folder says of the runs in it. Loads nothing heavy."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.core.locks import is_held
from pipeline.core.paths import content_of, kind_of
from pipeline.core.reading import read_object
from pipeline.results.run import SCHEMA_VERSION, RunReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN_FILE = "run.json"
PLAN_FILE = "plan.json"
#: Whoever writes into a run's folder holds the lock on this file.
LOCK_FILE = ".lock"
#: What became of a run that says that it is running, while nobody is.
_ENDED = "its process ended without finishing it, killed or with the machine"


def previous_ingredients(folder: Path, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the ingredients of the steps of the last run in this folder; none when there was no run.

    They only say what changed since then: a file that cannot be read is told by `note`, and holds none. Raises OSError
    where the folder has a name that no file system takes.
    """
    file = folder / PLAN_FILE
    try:
        found = json.loads(content_of(file))
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # no run could write there either
            raise
        note(f"{file} cannot be read ({error}): so it is not known what changed since the last run; it is rewritten")
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) and "kind" in each for each in found):
        note(f"{file} does not hold the steps of a run: so it is not known what changed since then; it is rewritten")
        return []
    return found


def read_run(path: Path) -> tuple[RunReport, Path]:
    """Return the report of a run folder (or of its run.json) and the folder. Raises InputError when there is none.

    A run that was killed could not say so: where no process holds the folder's lock, it is told as interrupted.
    """
    file = path / RUN_FILE if kind_of(path) == "a folder" else path
    if kind_of(file) != "a file":
        raise InputError(
            f"{path} holds no {RUN_FILE}: give the folder of a run (report also takes that of a comparison)"
        )
    report = _report_in(file)
    if report.status != "running" or _is_at_work(file.parent):
        return report, file.parent
    report = _report_in(file)  # it may have finished since
    ended = {"status": "interrupted", "error": _ENDED}
    return (report.model_copy(update=ended) if report.status == "running" else report), file.parent


def _is_at_work(folder: Path) -> bool:
    """Say whether a process writes into a run's folder; where that cannot be told, what it says of itself holds."""
    try:
        return is_held(folder / LOCK_FILE)
    except OSError:
        return True


def _report_in(file: Path) -> RunReport:
    content = read_object(file, "a run of this program: run the recipe again")
    found = content.get("schema_version")
    if found != SCHEMA_VERSION:
        raise InputError(f"{file} has schema_version {found}, this version reads {SCHEMA_VERSION}")
    try:
        report = RunReport.model_validate(content)
        for row in report.rows:  # what they say of their stages is damaged as easily
            _ = row.gain, row.nearness
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{file} is not a run of this program: {where} {first['msg']}. Run the recipe again."
        ) from error
    return report
