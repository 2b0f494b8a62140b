"""A task of the user's own file: what its optional members say of the data."""

from __future__ import annotations

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
