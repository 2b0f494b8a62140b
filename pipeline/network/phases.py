"""A stage in phases: networks that follow from one another, each finished before the next one starts.

Every phase has a folder of its own. A stage that was killed finds the finished ones again, and in the one that it was
in whatever that phase left there to go on from.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from pipeline.core import entry
from pipeline.core.entry import RECORD_FILE
from pipeline.core.partial import sync_folder
from pipeline.core.runtimes import FORMS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.core.artifact import Artifact

    Record = dict[str, Any]


class Phases:
    """The phases of one stage so far; `latest` is the network that the next one starts from."""

    def __init__(self, folder: Path, given: Artifact, note: Callable[[str], None]) -> None:
        """Take the folder that holds the phases' folders, the network before the first, and who is told of damage."""
        self.folder = folder
        self.note = note
        self.latest = given
        self.count = 0

    def run(self, make: Callable[[Artifact, Path], Record]) -> Record:
        """Run the next phase unless it is finished, and return its record.

        `make(given, folder)` writes a torch artifact's payload into the folder and returns plain JSON.
        """
        done = self.folder / f"{self.count:03d}"
        wrong = _problem(done) if done.exists() else ""
        if wrong:
            self.note(
                f"phase {self.count} of an earlier run cannot be used ({wrong}): it and what follows is made again"
            )
            for later in sorted(self.folder.iterdir()):
                if later.stem >= done.name:
                    shutil.rmtree(later)
        if not done.exists():
            part = done.with_suffix(".part")
            part.mkdir(parents=True, exist_ok=True)
            record = make(self.latest, part)
            (part / RECORD_FILE).write_text(json.dumps(record, allow_nan=False))
            entry.seal(part)
            part.rename(done)
            sync_folder(self.folder)
        self.count += 1
        self.latest = self.latest.model_copy(update={"folder": done, "digest": ""})
        found: Record = json.loads((done / RECORD_FILE).read_text())
        return found

    def finish(self, folder: Path) -> None:
        """Copy the latest network's payload to `folder`. The phases stay until the store has all that it keeps."""
        for name in FORMS["torch"].files:
            shutil.copyfile(self.latest.folder / name, folder / name)


def _problem(done: Path) -> str:
    """Say why a finished phase cannot be used; one without a listing, of earlier versions, has to have its files."""
    if entry.is_listed(done):
        return entry.problem(done)
    missing = [name for name in (*FORMS["torch"].files, RECORD_FILE) if not (done / name).is_file()]
    if missing:
        return f"{missing[0]} is missing"
    try:
        json.loads((done / RECORD_FILE).read_bytes())
    except ValueError:
        return f"{RECORD_FILE} cannot be read"
    return ""
