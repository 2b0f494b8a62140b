"""What a run folder says of the runs in it. Loads nothing heavy."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.core.paths import content_of, kind_of
from pipeline.core.reading import read_object
from pipeline.results.run import SCHEMA_VERSION, RunReport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN_FILE = "run.json"
PLAN_FILE = "plan.json"


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
    """Return the report of a run folder (or of its run.json) and the folder. Raises InputError when there is none."""
    file = path / RUN_FILE if kind_of(path) == "a folder" else path
    if kind_of(file) != "a file":
        raise InputError(
            f"{path} holds no {RUN_FILE}: give the folder of a run (report also takes that of a comparison)"
        )
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
    return report, file.parent
