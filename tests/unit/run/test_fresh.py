"""`--fresh` takes nothing from the store, resumes itself, and leaves what it made in place of what was there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline import api
from pipeline.core.entry import seal
from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.core.store import Store
from pipeline.run.fresh import FOLDER, own_store, store_of_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

KEYS = ("aa01", "bb02", "bb03")
DATA = """
from pathlib import Path
import numpy as np
from pipeline.core.dataset import Dataset, Normalisation, Split

def load():
    labels = np.load(Path(__file__).with_name("labels.npy"))
    images = np.random.default_rng(0).integers(0, 256, (3, len(labels), 1, 12, 12)).astype(np.uint8)
    return Dataset("swapped", ("a", "b"), Normalisation((0.4,), (0.2,)), *(Split(part, labels) for part in images))
"""


@dataclass
class Notes(SilentProgress):
    """Progress that keeps what is said."""

    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)


def write(store: Store, key: str, text: str) -> None:
    """Write a finished entry."""
    store.folder(key).mkdir(parents=True)
    (store.folder(key) / "file").write_text(text)
    seal(store.folder(key))


def content(store: Store) -> dict[str, str]:
    """Return what the entries hold."""
    return {key: (store.folder(key) / "file").read_text() for key in KEYS if store.folder(key).exists()}


def stopped(store: Store, run: Path, notes: Notes) -> None:
    """Make one entry and be interrupted."""
    with store_of_run(store, run, notes, fresh=True) as given:
        assert content(given) == {}
        write(given, "aa01", "new")
        raise KeyboardInterrupt


def test_without_it_the_store_is_the_store(tmp_path: Path) -> None:
    """Nothing else is made."""
    store = Store(tmp_path / "store")
    with store_of_run(store, tmp_path / "run", SilentProgress(), fresh=False) as given:
        assert given is store
    assert not (tmp_path / "run").exists()


def test_entries_take_their_places_when_the_run_is_finished(tmp_path: Path) -> None:
    """Until then the store has what it had, also after an error; what was made by then is gone on from."""
    store, notes = Store(tmp_path / "store"), Notes()
    write(store, "aa01", "old")
    write(store, "bb03", "old")
    with pytest.raises(KeyboardInterrupt):
        stopped(store, tmp_path / "run", notes)
    assert content(store) == {"aa01": "old", "bb03": "old"}
    assert notes.lines == []
    with store_of_run(store, tmp_path / "run", notes, fresh=True) as given:
        assert content(given) == {"aa01": "new"}
        write(given, "bb02", "new")
    assert content(store) == {"aa01": "new", "bb02": "new", "bb03": "old"}
    assert [line.split(";")[0] for line in notes.lines] == ["--fresh resumes the run that was stopped"]
    assert not (tmp_path / "run" / FOLDER).exists()
    with store_of_run(store, tmp_path / "run", notes, fresh=True) as given:
        given.root.mkdir(parents=True)
        assert content(given) == {}


def test_what_a_killed_run_left_is_not_taken_for_the_new(tmp_path: Path) -> None:
    """Also where it was listed and wanted nothing but its name; a damaged entry of the fresh run goes nowhere."""
    store = Store(tmp_path / "store")
    write(store, "aa01", "old")
    (store.root / "work").mkdir()
    store.folder("aa01").rename(store.root / "work" / "aa01")
    with store_of_run(store, tmp_path / "run", SilentProgress(), fresh=True) as given:
        write(given, "aa01", "new")
        write(given, "bb02", "new")
        (given.folder("bb02") / "file").write_text("ne")
    assert content(store) == {"aa01": "new"}


def test_reasons_of_a_fresh_run(project: Project, tmp_path: Path) -> None:
    """Planned and run: what the store has is left aside; what a stopped fresh run made is its own, and no other's."""
    project.recipe.write_text(project.recipe.read_text().partition("stages:")[0] + "stages: [{kind: export, to: onnx}]")
    store, run = tmp_path / "store", tmp_path / "run"

    def reasons(*, fresh: bool) -> list[str]:
        return [step.reason for step in api.plan(project.recipe, run, store=store, fresh=fresh)]

    assert reasons(fresh=True) == reasons(fresh=False) == ["not run before"] * 2
    assert not run.exists()
    api.run(project.recipe, run, store=store, test=False)
    assert reasons(fresh=False) == ["in the store"] * 2
    assert reasons(fresh=True) == ["in the store, which --fresh ignores"] * 2
    own = own_store(Store(store), run)
    first = api.plan(project.recipe, run, store=store)[0].key
    shutil.copytree(Store(store).folder(first), own.folder(first))
    assert reasons(fresh=True) == [
        "made by the --fresh run that was stopped",
        "in the store, which --fresh ignores",
    ]
    shutil.rmtree(store)
    assert reasons(fresh=False) == ["not in the store: not finished, or removed"] * 2
    with pytest.raises(InputError, match="fresh needs out"):
        api.plan(project.recipe, store=store, fresh=True)


def test_swapped_labels(project: Project, tmp_path: Path) -> None:
    """Labels that the recipe does not name come out of the store, with a word; `--fresh` sees them."""
    labels, store, notes = np.arange(40) % 4 // 3, tmp_path / "store", Notes()
    (project.folder / "data.py").write_text(DATA)
    project.recipe.write_text(
        project.recipe.read_text().partition("stages:")[0] + "stages: [{kind: export, to: onnx}]\n"
    )

    def accuracy(*, fresh: bool = False) -> float:
        report = api.run(project.recipe, tmp_path / "run", store=store, fresh=fresh, progress=notes).report
        assert report.rows[0].validation is not None
        return report.rows[0].validation.accuracy

    np.save(project.folder / "labels.npy", labels)
    first = accuracy()
    np.save(project.folder / "labels.npy", 1 - labels)
    assert accuracy() == first != 1 - first
    assert any("the recipe does not name: 1 (labels.npy)" in line for line in notes.lines)
    assert accuracy(fresh=True) == 1 - first
    assert accuracy() == 1 - first
