"""Numbers, names and places that no machine has: one message, exit code 2, no traceback, and within seconds."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cli import main
from pipeline.core import interruption
from pipeline.core.errors import InputError, RecipeError
from pipeline.core.paths import file_name, kind_of, make_folder
from pipeline.recipe import load_recipe, load_values
from pipeline.recipe.yaml import MAX_BYTES

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
format: 1
name: a case
model: {definition: model.py}
data: {source: elpv}
stages:
  - {kind: prune, ratio: 0.5}
  - {kind: finetune, epochs: 1}
  - {kind: export, to: onnx}
"""
HUGE = "9" * 400
WHOLE = "an integer of 64 bits, at most 9223372036854775807"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a recipe."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "model.py").write_text("")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def refused(folder: Path, *overrides: str) -> str:
    """Return why the recipe is refused."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "recipe.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (f"stages.0.ratio={HUGE}", WHOLE),
        (f"stages.0.ratio=-{HUGE}", WHOLE),
        (f"stages.0.align={HUGE}", WHOLE),
        (f"stages.1.epochs={2**63}", WHOLE),
        (f"stages.1.epochs=0x{'f' * 400}", WHOLE),
        (f"stages.1.epochs={'9' * 5000}", "a finite number"),
        ("stages.1.learning_rate=1.0e+999", "a finite number"),
        ("stages.1.learning_rate=1.0e+38", "at most"),
        ("stages.1.weight_decay=1.0e+38", "at most"),
        ("stages.1.warmup=1.0e+300", "at most"),
        ("stages.1.batch=9223372036854775807", "at most"),
        ("target.batch=9223372036854775807", "at most"),
        ("target.threads=9223372036854775807", "at most"),
        ("model.arguments.width=99999999999999999999", WHOLE),
        ("model.arguments=[1]", "a mapping"),
        (f"stages.{HUGE}.ratio=1", "found no entry"),
        (f"stages.{'9' * 5000}.ratio=1", "found no entry"),
        ("stages.-1.ratio=1", "found no entry"),
        ("stages.\N{SUPERSCRIPT TWO}.ratio=1", "found no entry"),
        (f"model.arguments.{'a.' * 2000}b=1", "16 at most"),
        (f"budget.latency={HUGE}ms", "a positive"),
        ("budget.latency=0.0ms", "a positive"),
        (f"model.definition={'n' * 5000}", "no such file"),
        (f"model.definition={'d/' * 3000}f", "no such file"),
        ('model.definition="a\\0b"', "allowed: a path"),
        ("model.definition=pipe", "no file"),
        ("model.definition=/dev/zero", "no file"),
        ("model.definition=/proc/self/mem/x", "no such file"),
        ("model.definition=~nobody-of-this-name/model.py", "allowed: a path"),
        ("data={source: folder, root: model.py}", "an existing folder"),
    ],
)
def test_values_beyond_any_machine(folder: Path, override: str, expected: str) -> None:
    """They are refused where they stand, before anything is loaded."""
    assert expected in refused(folder, override)


@pytest.mark.parametrize(
    "value",
    [10**400, 10**5000, -(10**400), Fraction(10**400), math.inf, {10**5000}],
    ids=["whole", "too long to print", "negative", "fraction", "infinite", "within a set"],
)
def test_python_values_beyond_any_machine(folder: Path, value: Any) -> None:  # noqa: ANN401
    """The same from a program."""
    stages = [{"kind": "prune", "ratio": value}]
    values = {"format": 1, "name": "x", "model": {"definition": "model.py"}, "data": {"source": "elpv"}}
    with pytest.raises(RecipeError, match=r"stages\.0\.ratio: found"):
        load_values({**values, "stages": stages}, folder)


def test_a_recipe_has_a_size(folder: Path) -> None:
    """A megabyte takes half a minute to read as YAML: it is refused before."""
    (folder / "recipe.yaml").write_text(RECIPE + "# " + "x" * MAX_BYTES)
    assert "found more than 128 KiB, allowed: a recipe" in refused(folder)


def test_a_message_has_a_length(folder: Path) -> None:
    """Of a thousand problems a hundred are listed, and the rest counted."""
    (folder / "recipe.yaml").write_text(RECIPE + "".join(f"key{number}: 1\n" for number in range(1000)))
    told = refused(folder).splitlines()
    assert (len(told), told[-1].rpartition(": ")[2]) == (101, "and 900 more")


@pytest.mark.parametrize("name", ["x" * 5000, "d/" * 3000 + "recipe.yaml", "pipe", ".", "a\0b", "/dev/zero"])
def test_recipes_that_are_no_files(folder: Path, name: str) -> None:
    """Whatever stands there instead is named; nothing is read of it."""
    with pytest.raises(RecipeError, match=r"found (a folder|no file|no such file), allowed: a recipe"):
        load_recipe(folder / name)


@pytest.mark.parametrize(
    "name",
    [
        "model.py",
        "model.py/below",
        "pipe",
        "x" * 300,
        "d/" * 3000,
        "a\0b",
        "/dev/full",
        "/dev/full/x",
        "/proc/x",
        "/proc",
    ],
)
def test_folders_that_cannot_be_written(folder: Path, name: str) -> None:
    """Found before anything is done, with the option that names another; the mode alone does not stop root."""
    with pytest.raises(InputError, match=r"cannot be the run's folder: .*; give another with --out"):
        make_folder(folder / name, "the run's folder", "give another with --out")


def test_folders_that_can_be_written_are_left_as_they_are(folder: Path) -> None:
    """Nothing is left in them."""
    for _ in range(2):
        make_folder(folder / "a" / "b", "the run's folder", "")
    assert list((folder / "a" / "b").iterdir()) == []
    assert [kind_of(folder / name) for name in ("a", "model.py", "pipe", "nothing")] == [
        "a folder",
        "a file",
        "no file",
        "",
    ]


def test_names_of_results_fit_the_file_system() -> None:
    """Two names together may be longer than one may be; names that are told apart stay apart."""
    assert file_name("main--branch") == "main--branch"
    long = [file_name("\N{SNOWMAN}" * 100 + end) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(each.encode()) <= 200 for each in long)
    assert file_name("\udcff" * 300).isprintable()


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "recipe.yaml", "--seed", "9" * 30),
        ("run", "recipe.yaml", "--out", "model.py"),
        ("run", "recipe.yaml", "--out", "/dev/full"),
        ("run", "recipe.yaml", "--out", "/proc/nowhere"),
        ("run", "recipe.yaml", "--out", "x" * 300),
        ("run", "x" * 5000),
        ("plan", "recipe.yaml", "--out", "x" * 300),
        ("validate", "pipe"),
        ("report", "x" * 300),
        ("report", "pipe"),
        ("recipes", "copy", "resnet20-fashion-int8", "model.py"),
        ("recipes", "copy", "resnet20-fashion-int8", "/dev/full"),
        ("compare", "model.py", "model.py", "--out", "/dev/full/x"),
        ("compare", "x" * 300, "y" * 300),
        ("compare", "model.py", "model.py", "--shape", "a=" + "9" * 5000),
        ("compare", "model.py", "model.py", "--threads", "9" * 30),
        ("compare", "model.py", "model.py", "--margin", "nan"),
        ("compare", "model.py", "model.py", "--tolerance", "inf"),
        ("compare", "model.py", "model.py", "--budget", "1e400s"),
        ("bench", "pipe"),
        ("inspect", "pipe"),
        ("inspect", "x" * 300),
        ("bundle", "x" * 300),
        ("verify", "x" * 300),
        ("verify", "pipe"),
        ("gate", "x" * 300),
        ("gate", "pipe"),
        ("device", "add", "x" * 300, "local"),
    ],
    ids=lambda each: " ".join(word[:20] for word in each),
)
def test_commands_refuse_in_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """One message and exit code 2."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECATEUR_STORE", str(folder / "store"))
    monkeypatch.setattr("sys.argv", ["secateur", *arguments])
    monkeypatch.setattr(interruption, "install", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2, capsys.readouterr().err
    assert len(capsys.readouterr().err.splitlines()) < 12
