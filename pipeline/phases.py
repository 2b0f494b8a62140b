"""A stage in phases: networks that follow from one another, each finished before the next one starts.

Every phase has a folder of its own. A stage that was killed finds the finished ones again, and in the one that it was
in whatever that phase left there to go on from.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import PAYLOAD, Artifact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Record = dict[str, Any]

RECORD_FILE = "record.json"


class Phases:
    """The phases of one stage so far; `latest` is the network that the next one starts from."""

    def __init__(self, folder: Path, given: Artifact) -> None:
        """Take the folder that holds the phases' folders, and the network before the first."""
        self.folder = folder
        self.latest = given
        self.count = 0

    def run(self, make: Callable[[Artifact, Path], Record]) -> Record:
        """Run the next phase unless it is finished, and return its record.

        `make(given, folder)` writes a torch artifact's payload into the folder and returns plain JSON.
        """
        done = self.folder / f"{self.count:03d}"
        if not done.exists():
            part = done.with_suffix(".part")
            part.mkdir(parents=True, exist_ok=True)
            record = make(self.latest, part)
            (part / RECORD_FILE).write_text(json.dumps(record, allow_nan=False))
            part.rename(done)
        self.count += 1
        self.latest = self.latest.model_copy(update={"folder": done, "digest": ""})
        found: Record = json.loads((done / RECORD_FILE).read_text())
        return found

    def finish(self, folder: Path) -> None:
        """Copy the latest network's payload to `folder`, and remove the phases."""
        for name in PAYLOAD["torch"]:
            shutil.copyfile(self.latest.folder / name, folder / name)
        shutil.rmtree(self.folder)
