"""A task of the user's own file: what its members say, what it reads, and what it imports."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.data.task_file import load_task_file

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
class Given:
    class Error:
        name = "error"
        statistic = staticmethod(lambda prediction, target: 0.0)
    metrics = (Error(),)
    eval_samples = staticmethod(lambda split: [(split, {}, 0)])
    preprocess = decode = staticmethod(lambda given: given)
    NOTES
def task():
    return Given()
"""


def test_notes_are_for_the_readers_of_a_result(tmp_path: Path) -> None:
    """They are those of the data; there may be none."""
    for line, notes in (('notes = ["synthetic", "drawn"]', ("synthetic", "drawn")), ("", ())):
        file = tmp_path / f"task{len(line)}.py"
        file.write_text(CODE.replace("NOTES", line))
        assert load_task_file(file, {}, ()).data.notes == notes


@pytest.mark.parametrize("found", ["'synthetic'", "[1]", "None"])
def test_notes_are_texts(tmp_path: Path, found: str) -> None:
    """One text would be taken for its letters."""
    file = tmp_path / "task.py"
    file.write_text(CODE.replace("NOTES", f"notes = {found}"))
    with pytest.raises(InputError, match=r"task.py: notes is .*, expected a list of texts"):
        load_task_file(file, {}, ())


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ('def __init__(self): (FOLDER / ("fac" + ".json")).read_text()', "fac.json"),
        ("def eval_samples(self, split): return [(split, {}, int((FOLDER / f'{split}.txt').read_text()))]", "test.txt"),
        (
            "def eval_samples(self, split):\n        import far_away_module\n        yield split, {}, 0",
            "far_away_module.py",
        ),
    ],
)
def test_what_samples_are_made_of_is_named_or_told(tmp_path: Path, line: str, reads: str) -> None:
    """In `task` and in `eval_samples` of all splits; the note says what a change does, and names the line to write."""
    far, file = tmp_path / "far", tmp_path / "task.py"
    far.mkdir()
    for name in ("fac.json", "train.txt", "validation.txt", "test.txt", "far_away_module.py"):
        (far / name).write_text("1\n")
    head = f"import pathlib, sys\nFOLDER = pathlib.Path({str(far)!r})\n"
    file.write_text(head + "sys.path.append(str(FOLDER))\n" + CODE.replace("NOTES", line))
    before = [*sys.path]
    try:
        (note,) = load_task_file(file, {}, ()).data.notes
        assert note.startswith("files that task.py reads and the recipe does not name: ")
        assert f"far/{reads}" in note
        assert "A change of them is not seen, and finished stages are taken from the store. Write inputs: [far/" in note
        assert note.endswith("] below task, or run with --fresh")
        assert load_task_file(file, {}, (far,)).data.notes == ()
    finally:
        sys.path[:] = before
        sys.modules.pop("far_away_module", None)


def test_modules_beside_it_can_be_imported_whenever_it_runs(tmp_path: Path) -> None:
    """One module stays the same one, and nobody else sees it."""
    file = tmp_path / "task.py"
    (tmp_path / "late_helper.py").write_text("calls = []\ndef seen(given):\n    calls.append(1)\n    return given\n")
    late = "def FUNCTION(self, given):\n        from late_helper import seen, calls\n        "
    methods = [
        late.replace("FUNCTION", "eval_samples") + "yield seen(given), {}, 0",
        late.replace("FUNCTION", "preprocess") + "return seen({'x': np.zeros(1)})",
        late.replace("FUNCTION", "decode") + "return len(seen(calls))",
    ]
    file.write_text("import numpy as np\n" + CODE.replace("NOTES", "\n    ".join(methods)))
    task = load_task_file(file, {}, ())
    assert task.feeds("train", slice(0, 1)).keys() == {"x"}
    assert task.kit.decode({}) == 5  # three splits, one sample, and this
    assert "late_helper" not in sys.modules
    assert str(tmp_path) not in sys.path
