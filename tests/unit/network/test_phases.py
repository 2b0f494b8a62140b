"""Phases: finished ones are found again, an unfinished one goes on in its folder, and the last one is the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.artifact import Artifact
from pipeline.core.runtimes import FORMS
from pipeline.network.phases import Phases

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = Artifact(form="torch", folder="/given", digest="x", inputs=(), outputs=())  # type: ignore[arg-type]


def write(given: Artifact, folder: Path) -> dict[str, Any]:
    """Write a payload that says where it comes from."""
    for name in FORMS["torch"].files:
        (folder / name).write_text(f"after {given.folder.name}")
    return {"from": given.folder.name, "pair": [1, 0.1]}


def fail(_given: Artifact, folder: Path) -> dict[str, Any]:
    """Leave something to go on from, and die."""
    (folder / "state").write_text("half")
    raise KeyboardInterrupt


def test_each_phase_starts_from_the_one_before(tmp_path: Path) -> None:
    """Records come back as JSON has them; the latest payload becomes the stage's own, and phases stay."""
    notes: list[str] = []
    phases = Phases(tmp_path / "phases", GIVEN, notes.append)
    assert phases.run(write) == {"from": "given", "pair": [1, 0.1]}
    assert phases.run(write)["from"] == "000"
    phases.finish(tmp_path)
    assert (tmp_path / "weights.safetensors").read_text() == "after 000"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(FORMS["torch"].files)


def test_a_killed_phase_is_run_again_in_its_folder_and_finished_ones_are_not(tmp_path: Path) -> None:
    """The second attempt finds what the first left, and the first phase's record without running it."""
    notes: list[str] = []
    phases = Phases(tmp_path / "phases", GIVEN, notes.append)
    phases.run(write)
    with pytest.raises(KeyboardInterrupt):
        phases.run(fail)
    again = Phases(tmp_path / "phases", GIVEN, notes.append)
    assert again.run(fail) == {"from": "given", "pair": [1, 0.1]}

    def go_on(given: Artifact, folder: Path) -> dict[str, Any]:
        assert (folder / "state").read_text() == "half"
        return write(given, folder)

    assert again.run(go_on)["from"] == "000"


DAMAGE = {
    "no record": lambda folder: (folder / "record.json").unlink(),
    "empty record": lambda folder: (folder / "record.json").write_text(""),
    "half removed": lambda folder: (folder / "weights.safetensors").unlink(),
    "a byte": lambda folder: (folder / "weights.safetensors").write_text("after givem"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_phase_and_what_follows_it_is_made_again(tmp_path: Path, kind: str, *, listed: bool) -> None:
    """The phase before it is kept, and it is said; also of earlier versions, which listed no files."""
    notes: list[str] = []
    phases = Phases(tmp_path / "phases", GIVEN, notes.append)
    for _ in range(3):
        phases.run(write)
    for each in () if listed else range(3):
        (tmp_path / "phases" / f"00{each}" / "entry.json").unlink()
    DAMAGE[kind](tmp_path / "phases" / "001")
    again = Phases(tmp_path / "phases", GIVEN, notes.append)
    assert not notes
    made: list[str] = []

    def count(given: Artifact, folder: Path) -> dict[str, Any]:
        made.append(folder.name)
        return write(given, folder)

    records = [again.run(count)["from"] for _ in range(3)]
    assert records == ["given", "000", "001"]
    if listed or kind != "a byte":  # a changed byte is not seen without a listing
        assert made == ["001.part", "002.part"]
        assert "phase 1 of an earlier run cannot be used" in notes[0]
