"""A task of the user's own file: what its members say, what it reads, and what it imports."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.data.task_file import load_task_file
from pipeline.results.scores import score_predictions

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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("metrics = Error()", ": metrics is a Error, expected a list of metrics"),
        ("metrics = ()", ": the task has no metrics, expected at least one"),
        ("metrics = (Error(), Error())", ": metrics has error twice, expected a name of its own for each"),
        ("metrics = ['error']", ": metrics[0] is 'error', which has no function statistic(prediction, target)"),
        ("Error.statistic = lambda *_: 0; metrics = (Error,)", ": metrics[0] is the class Error, expected"),
        ("Error.name = None", ": metrics[0].name is None, expected a text other than 'images'"),
        ("Error.name = 'images'", ": metrics[0].name is 'images', expected a text other than 'images'"),
        ("Error.unit = None", ": metrics[0].unit is None, expected a text"),
        ("Error.higher_is_better = 'no'", ": metrics[0].higher_is_better is 'no', expected True or False"),
        ("Error.is_mean = 1", ": metrics[0].is_mean is 1, expected True or False"),
        ("Error.compute = 3", ": metrics[0].compute is 3, expected a function compute(statistics)"),
        *((f"Error.range = {each}", f": metrics[0].range is {each}, expected two numbers, the lower one first")
          for each in ("None", "'ab'", "(0, 1, 2)", "(5, 1)", "(0, 0)", "(True, 2)", "('0', 1)")),
        ("name = None", ": name is None, expected a text"),
        ("licence = None", ": licence is None, expected a text"),
        ("classes = 3", ": classes is 3, expected a list of names"),
        ("classes = None", ": classes is None, expected a list of names"),
        ("output_names = 3", ": output_names is 3, expected a list of names"),
        ("output_names = 'point'", ": output_names is 'point', expected a list of names"),
    ],
)  # fmt: skip
def test_members_that_are_something_else_are_refused(tmp_path: Path, line: str, said: str) -> None:
    """With the member, what it is and what it should be."""
    file = tmp_path / "task.py"
    file.write_text(CODE.replace("NOTES", line))
    with pytest.raises(InputError, match=re.escape(f"{file}{said}")):
        load_task_file(file, {}, ())


@pytest.mark.parametrize("made", ["None", "'0.5'", "np.ones(2)", "np.ones(1)", "np.str_('1')", "1j"])
def test_a_metric_gives_numbers(tmp_path: Path, made: str) -> None:
    """The statistic of one without `compute`, and what `compute` returns; an array of one number is one."""
    file = tmp_path / "task.py"
    functions = "Error.VALUE = staticmethod(lambda *_: MADE)"
    for name, call in (("statistic", "statistic(prediction, target)"), ("compute", "compute(statistics)")):
        text = CODE.replace("NOTES", functions.replace("VALUE", name).replace("MADE", made))
        file.write_text(f"import numpy as np\n{text}")
        (metric,) = load_task_file(file, {}, ()).metrics
        with pytest.raises(InputError, match=re.escape(f"{file}: metrics[0]: {call} returned ")):
            score_predictions([metric], [0], [0])
        file.write_text(f"import numpy as np\n{text.replace(made, 'np.array(0.5)')}")
        assert score_predictions(load_task_file(file, {}, ()).metrics, [0, 0], [0, 0]).judged == 0.5


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("[]", "returned []"),
        ("{0: np.ones(1)}", "returned the input name 0"),
        ("{'x': 1.0}", "returned 1.0 for x"),
        ("{'x': np.array([None])}", "returned a ndarray of object for x"),
        ("{'x': np.array(['a'])}", "returned a ndarray of <U1 for x"),
    ],
)
def test_inputs_are_arrays_of_numbers_by_name(tmp_path: Path, made: str, said: str) -> None:
    """What a network cannot take is refused at the first sample."""
    file = tmp_path / "task.py"
    file.write_text("import numpy as np\n" + CODE.replace("NOTES", f"preprocess = staticmethod(lambda raw: {made})"))
    expected = f"{file}: preprocess(raw) {said}, expected a dict of numpy arrays of numbers by input name"
    with pytest.raises(InputError, match=re.escape(expected)):
        load_task_file(file, {}, ()).inputs(1)
