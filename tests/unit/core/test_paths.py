"""Reading files that may be something else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pipeline.core.artifact import file_digest
from pipeline.core.errors import ResourceError
from pipeline.core.paths import content_of
from pipeline.core.store import read_artifact
from pipeline.core.user_code import import_file
from pipeline.results.run_folder import previous_ingredients

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: What lies where a file should.
MADE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("what", MADE)
def test_pipes_and_devices_are_never_read(what: str, tmp_path: Path) -> None:
    """One would be waited for, the other read without end."""
    for name in ("plan.json", "artifact.json", "model.py"):
        MADE[what](tmp_path / name)
    for read in (content_of, file_digest, lambda path: import_file(path, "test")):
        with pytest.raises(OSError, match="is a pipe or a device, expected a file"):
            read(tmp_path / "model.py")
    with pytest.raises(ResourceError, match="is a pipe or a device"):
        read_artifact(tmp_path)
    notes: list[str] = []
    assert previous_ingredients(tmp_path, notes.append) == []
    assert "is a pipe or a device" in notes[0]
