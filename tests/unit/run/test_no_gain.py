"""A stage that has to bring a gain: what is timed, what counts as a gain, and what is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.artifact import Artifact, Form, StageRecord, payload_digest
from pipeline.core.errors import StageError
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.store import read_artifact, read_record, write_artifact, write_record
from pipeline.results.run import Gain
from pipeline.run import no_gain
from pipeline.run.no_gain import BUDGET_S, gain, record_decision
from tests.unit.measure.replay import Scene
from tests.unit.run.gain_fixtures import CONTENDED, FAST, SLOW, UNCLEAR, Scenes, nudge

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.stage import OnNoGain

LOCAL = Target()


def exported(folder: Path, form: Form = "onnx") -> Artifact:
    """Return an exported file that nobody reads."""
    return Artifact(form=form, folder=folder, digest=folder.name, inputs=(), outputs=())


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Scenes:
    """Return what measures from now on; its scene may be changed."""
    found = Scenes(UNCLEAR)
    monkeypatch.setattr(no_gain, "measure_subjects", found)
    return found


def found_in(folder: Path, asked: OnNoGain = "skip", target: Target = LOCAL, form: Form = "onnx") -> Gain:
    """Return what is decided of two files."""
    files = exported(folder / "before"), exported(folder / "after", form)
    return gain(*files, nudge(1, asked), target, seed=0, progress=SilentProgress())


def test_a_faster_file_is_kept(scenes: Scenes, tmp_path: Path) -> None:
    """An interval above 1 keeps the stage, whatever else was asked, and sampling ends at once."""
    scenes.scene = FAST
    for asked in ("skip", "fail"):
        found = found_in(tmp_path, asked)
        assert found.decision == "kept"
        assert found.low is not None
        assert found.high is not None
        assert 1 < found.low < 1.25 < found.high
        assert found.text == f"{found.speedup:.2f}x [{found.low:.2f}, {found.high:.2f}]"


@pytest.mark.parametrize("scene", [SLOW, UNCLEAR], ids=["slow", "unclear"])
def test_what_is_not_faster_is_skipped(scenes: Scenes, tmp_path: Path, scene: Scene) -> None:
    """A slower file is no gain, and neither is one that may be faster."""
    scenes.scene = scene
    found = found_in(tmp_path)
    assert found.decision == "skipped"
    assert found.low is not None
    assert found.low < 1
    assert found.text.startswith("0.83x [" if scene is SLOW else "1.00x [")


def test_failing_says_figures_and_cure(scenes: Scenes, tmp_path: Path) -> None:
    """With `fail` the error has the interval, the runtime and what to write instead."""
    scenes.scene = SLOW
    with pytest.raises(StageError, match=r"nudge gained no time in onnxruntime .*0\.83x \[.*on_no_gain: keep"):
        found_in(tmp_path, "fail")


def test_other_load_is_no_proof(scenes: Scenes, tmp_path: Path) -> None:
    """Where wall time alone sees a gain there is none, and the text says what the clocks say."""
    scenes.scene = CONTENDED
    found = found_in(tmp_path)
    assert found.decision == "skipped"
    assert "wall time says +3" in found.text
    assert "other programs ran on the cores" in found.text


def test_both_clocks_are_proof(scenes: Scenes, tmp_path: Path) -> None:
    """Clocks that disagree about how much, but both see a gain, prove one."""
    scenes.scene = Scene(wall=(3.0, 1.0), cpu=(2.7, 1.0))
    found = found_in(tmp_path)
    assert found.decision == "kept"
    assert "other programs ran on the cores" in found.text


def test_more_threads_go_by_the_wall_clock(scenes: Scenes, tmp_path: Path) -> None:
    """With two threads more CPU time in less time is a gain."""
    scenes.scene = Scene(wall=(1.5, 1.0), cpu=(1.0, 1.2), threads=2, late=0.0)
    assert found_in(tmp_path, target=Target(threads=2)).decision == "kept"


def test_an_overheated_device_is_no_proof(scenes: Scenes, tmp_path: Path) -> None:
    """What makes a comparison inconclusive makes a gain so, too."""
    scenes.scene = Scene(wall=(1.25, 1.0), temperature_c=lambda over: 40 + 400 * over)
    found = found_in(tmp_path)
    assert found.decision == "skipped"
    assert "the device got warmer" in found.text


def test_the_same_file_is_not_timed(scenes: Scenes, tmp_path: Path) -> None:
    """One file twice is no gain, and has no figures."""
    files = exported(tmp_path / "file"), exported(tmp_path / "file")
    found = gain(*files, nudge(0, "skip"), Target(), seed=0, progress=SilentProgress())
    assert found == Gain(decision="skipped", runtime="onnxruntime", text="the same file")
    assert scenes.calls == []


@pytest.mark.parametrize(
    ("asked", "form", "used"),
    [
        ("onnxruntime", "onnx", "onnxruntime"),
        ("onnxruntime", "openvino", "openvino"),
        ("openvino", "onnx", "openvino"),
        ("torch", "onnx", "onnxruntime"),
    ],
)
def test_it_is_timed_as_the_target_says(scenes: Scenes, tmp_path: Path, asked: str, form: Form, used: str) -> None:
    """Both files run in one runtime that reads them, the given one first, with the target's threads and batch."""
    target = Target.model_validate({"runtime": asked, "threads": 3, "batch": 4})
    assert found_in(tmp_path, target=target, form=form).runtime == used
    ((subjects, terms, plan),) = scenes.calls
    assert [(subject.digest, subject.runtime) for subject in subjects] == [("before", used), ("after", used)]
    assert (terms.threads, terms.batch, plan.budget_s) == (3, 4, BUDGET_S)


@pytest.mark.parametrize("decision", ["kept", "skipped"])
def test_what_is_decided_is_written(tmp_path: Path, decision: str) -> None:
    """A kept stage has its files and the gain in its lineage, a skipped one a record and nothing else."""
    own = tmp_path / "own"
    own.mkdir()
    for name in ("model.onnx", "beside.json"):
        (own / name).write_text(name)
    record = StageRecord(kind="nudge", revision=1, config={}, parent_digest="", seconds=2, changed={"amount": 1})
    digest = payload_digest("onnx", own)
    write_record(record, own)
    write_artifact(
        Artifact(form="onnx", folder=own, digest=digest, inputs=(), outputs=(), lineage=(record, record)), own
    )
    folder = tmp_path / "step"
    folder.mkdir()
    (folder / "model.onnx").write_text("left by a run that was killed")
    found = Gain.model_validate({"decision": decision, "runtime": "onnxruntime", "text": "the same file"})
    record_decision(read_artifact(own), found, folder, config={"on_no_gain": "skip"}, seconds=1)
    written = read_record(folder)
    assert written is not None
    assert (written.seconds, written.config) == (3, {"on_no_gain": "skip"})
    assert written.changed == {"amount": 1, "gain": found.model_dump(exclude_none=True)}
    if decision == "kept":
        assert read_artifact(folder).lineage == (record, written)
        assert (folder / "beside.json").read_text() == "beside.json"
    else:
        assert [path.name for path in folder.iterdir()] == ["record.json"]
    assert read_record(own) == record
