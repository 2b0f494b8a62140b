"""Phases: finished ones are found again, an unfinished one goes on in its folder, and the last one is the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.artifact import PAYLOAD, Artifact
from pipeline.phases import Phases

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = Artifact(form="torch", folder="/given", digest="x", inputs=(), outputs=())  # type: ignore[arg-type]


def write(given: Artifact, folder: Path) -> dict[str, Any]:
    """Write a payload that says where it comes from."""
    for name in PAYLOAD["torch"]:
        (folder / name).write_text(f"after {given.folder.name}")
    return {"from": given.folder.name, "pair": [1, 0.1]}


def fail(_given: Artifact, folder: Path) -> dict[str, Any]:
    """Leave something to go on from, and die."""
    (folder / "state").write_text("half")
    raise KeyboardInterrupt


def test_each_phase_starts_from_the_one_before(tmp_path: Path) -> None:
    """Records come back as JSON has them; the latest payload becomes the stage's own."""
    phases = Phases(tmp_path / "phases", GIVEN)
    assert phases.run(write) == {"from": "given", "pair": [1, 0.1]}
    assert phases.run(write)["from"] == "000"
    phases.finish(tmp_path)
    assert (tmp_path / "weights.safetensors").read_text() == "after 000"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PAYLOAD["torch"])


def test_a_killed_phase_is_run_again_in_its_folder_and_finished_ones_are_not(tmp_path: Path) -> None:
    """The second attempt finds what the first left, and the first phase's record without running it."""
    phases = Phases(tmp_path / "phases", GIVEN)
    phases.run(write)
    with pytest.raises(KeyboardInterrupt):
        phases.run(fail)
    again = Phases(tmp_path / "phases", GIVEN)
    assert again.run(fail) == {"from": "given", "pair": [1, 0.1]}

    def go_on(given: Artifact, folder: Path) -> dict[str, Any]:
        assert (folder / "state").read_text() == "half"
        return write(given, folder)

    assert again.run(go_on)["from"] == "000"
