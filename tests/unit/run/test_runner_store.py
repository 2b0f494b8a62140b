"""What a run takes from the store: whole entries that were made from what now stands before them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import save_file

from pipeline import api
from pipeline.core import entry
from pipeline.core.artifact import Artifact, StageRecord
from pipeline.core.dataset import Dataset, Normalisation
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.store import Store, write_record
from pipeline.data.arrays import image_classifier
from pipeline.network.definition import build_network
from pipeline.results.run_folder import previous_ingredients
from pipeline.run import evaluator
from pipeline.run.runner import Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.project import Project

FILE = Artifact(form="onnx", folder="/nowhere", digest="now", inputs=(), outputs=())  # type: ignore[arg-type]


@dataclass
class Notes(SilentProgress):
    """Progress that keeps what is said."""

    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)


@pytest.mark.parametrize(("parent", "fits"), [("now", True), ("before", False)])
@pytest.mark.parametrize("listed", [True, False])
def test_an_entry_has_to_come_from_what_stands_before_it(
    tmp_path: Path, parent: str, *, fits: bool, listed: bool
) -> None:
    """A stage that was made again to other bytes makes what follows again as well."""
    run = Run(None, tmp_path, Store(tmp_path / "store"), artifacts=[FILE])  # type: ignore[arg-type]
    folder = tmp_path / "entry"
    folder.mkdir()
    write_record(StageRecord(kind="measure", revision=1, config={}, parent_digest=parent, seconds=0), folder)
    if listed:
        entry.seal(folder)
    assert run._unfit(folder) == ("" if fits else "it was made from a file other than the one now before it")


def evaluations(tmp_path: Path, classes: tuple[str, ...]) -> list[dict[str, object]]:
    """Return what the evaluation of a file depends on in each runtime."""
    nothing: Any = None
    data = Dataset("toy", classes, Normalisation((0.5,), (0.25,)), nothing, nothing, nothing)
    task, found = image_classifier(data), []
    for form in ("onnx", "openvino"):
        asked = evaluator.Evaluator(Store(tmp_path), lambda: task, {"digest": "x"}, Target(), 1, SilentProgress())
        found.append(asked._conditions(FILE.model_copy(update={"form": form})))
    return found


def test_an_evaluation_depends_on_classes_and_on_its_runtime_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of one runtime asks for new evaluations in that one."""
    before = evaluations(tmp_path, ("a", "b"))
    assert evaluations(tmp_path, ("a", "b")) == before
    assert all(one != other for one, other in zip(evaluations(tmp_path, ("b", "a")), before, strict=True))
    version = evaluator.version
    monkeypatch.setattr(evaluator, "version", lambda name: "99" if name == "openvino" else version(name))
    after = evaluations(tmp_path, ("a", "b"))
    assert [one == other for one, other in zip(after, before, strict=True)] == [True, False]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{}", b"[1]", b'[{"no": "kind"}]', b'[{"kind": "pru'])
def test_a_plan_that_cannot_be_read_is_told_and_holds_nothing(tmp_path: Path, content: bytes) -> None:
    """It only says what changed since the last run; without the file there is nothing to tell."""
    notes: list[str] = []
    assert previous_ingredients(tmp_path, notes.append) == []
    assert not notes
    (tmp_path / "plan.json").write_bytes(content)
    assert previous_ingredients(tmp_path, notes.append) == []
    assert "it is rewritten" in notes[0]


def test_what_a_teacher_reads_makes_its_student_anew(project: Project) -> None:
    """The recipe does not name it: it is said, and what was learnt from it does not come out of the store."""
    table, teacher = project.folder / "width.txt", project.folder / "teacher.py"
    table.write_text("16")
    text = (project.folder / "model.py").read_text()
    read = "int(Path(__file__).with_name('width.txt').read_text())"
    teacher.write_text(f"from pathlib import Path\n{text.replace('width=16', f'width={read}')}")
    save_file(
        build_network(project.folder / "model.py", {"classes": 2}).state_dict(), project.folder / "teacher.safetensors"
    )
    source = "{definition: teacher.py, weights: teacher.safetensors, channels: 1}"
    stage = f"{{kind: finetune, epochs: 1, batch: 16, distill: {{from: {source}}}}}"

    def run() -> tuple[int, list[bool]]:
        progress, store, given = Notes(), project.folder / "store", [f"stages=[{stage}]", "data.arguments={train: 16}"]
        found = api.run(project.recipe, project.folder / "run", overrides=given, store=store, progress=progress)
        said = sum(line.startswith("teacher: files that build()") for line in progress.lines)
        return said, [row.cached for row in found.report.rows]

    assert run() == (1, [False, False])
    assert run() == (0, [True, True])
    table.write_text("16 ")
    assert run() == (1, [True, False])


def test_a_file_that_build_reads_is_said_and_never_taken_for_the_one_before(project: Project) -> None:
    """A change makes the network anew; where the recipe names the file, under a key of its own."""
    definition, recipe, table = (project.folder / name for name in ("model.py", "toy.yaml", "width.txt"))
    table.write_text("16")
    width = f"int(Path({str(table)!r}).read_text())"
    definition.write_text(f"from pathlib import Path\n{definition.read_text().replace('width=16', f'width={width}')}")
    chosen = ["stages=[{kind: export, to: onnx}]", "data.arguments={train: 16}"]

    def run(*more: str) -> tuple[list[str], list[bool]]:
        progress, store = Notes(), project.folder / "store"
        found = api.run(recipe, project.folder / "run", overrides=[*chosen, *more], store=store, progress=progress)
        notes = [line for line in progress.lines if line.startswith("model: ")]
        return notes, [row.cached for row in found.report.rows]

    ((note,), _) = run()
    assert "(width.txt)" in note
    assert note.endswith("Write inputs: [width.txt] below model")
    assert run() == ([], [True, True])
    table.write_text("8")
    ((_,), cached) = run()
    assert cached == [False, False]
    assert run() == ([], [True, True])
    named = "model.inputs=[width.txt]"
    assert run(named) == ([], [False, False])
    assert run(named) == ([], [True, True])
    table.write_text("16")
    assert run(named)[1] == [False, False]
