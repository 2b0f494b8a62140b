"""Recipes of Python values: they become what the same YAML becomes, and are refused with the same words."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline.core.errors import RecipeError
from pipeline.recipe import load_recipe, load_values
from pipeline.recipe.values import read_values

CASES = Path(__file__).resolve().parents[2] / "cases" / "recipes"
#: Cases whose YAML gives values, rather than being wrong as YAML.
OF_VALUES = (
    "chain-beside-other-problems",
    "chain-needs-onnx",
    "device-emulated",
    "empty-budget",
    "list-at-top",
    "missing-files",
    "missing-keys",
    "newer-format",
    "no-stages",
    "out-of-range",
    "quantize-settings",
    "skip-changes-form",
    "units",
    "unknown-keys",
    "wrong-kinds",
    "wrong-types",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model definition."""
    (tmp_path / "model.py").write_text("def build(): ...\n")
    return tmp_path


def values(**changes: object) -> dict[str, Any]:
    """Return the values of a good recipe, some of them changed."""
    good = {
        "format": 1,
        "name": "a good recipe",
        "model": {"definition": Path("model.py"), "arguments": {"classes": 2}},
        "data": {"source": "elpv"},
        "stages": ({"kind": "prune", "ratio": 0.5}, {"kind": "export", "to": "onnx"}),
    }
    return {**good, **changes}


def problems(folder: Path, recipe: dict[str, Any], *overrides: str) -> list[str]:
    """Return the lines of the error that a recipe gives."""
    with pytest.raises(RecipeError) as caught:
        load_values(recipe, folder, overrides)
    return str(caught.value).splitlines()


def test_values_and_yaml_become_the_same_recipe(folder: Path) -> None:
    """Configuration, plain values and digest are those of the YAML file; paths start at the folder."""
    text = json.dumps(values(model={"definition": "model.py", "arguments": {"classes": 2}}))
    (folder / "recipe.yaml").write_text(text)
    of_file, of_values = load_recipe(folder / "recipe.yaml"), load_values(values(), folder)
    assert of_values.recipe == of_file.recipe
    assert of_values.raw == of_file.raw
    assert of_values.digest == of_file.digest
    assert of_values.path.parent == folder
    assert of_values.recipe.model.definition == folder / "model.py"


@pytest.mark.parametrize("name", OF_VALUES)
def test_problems_are_those_of_the_file_without_lines(folder: Path, name: str) -> None:
    """Whatever is wrong in YAML is wrong in the same values, in the same words."""
    yaml = (CASES / f"{name}.yaml").read_bytes().partition(b"# expect:\n")[0]
    (folder / "recipe.yaml").write_bytes(yaml)
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "recipe.yaml")
    expected = {f"recipe {each.key}: {each.message}" for each in caught.value.problems}
    assert set(problems(folder, YAML(typ="safe").load(yaml))) == expected


def test_numbers_of_other_libraries_are_numbers(folder: Path) -> None:
    """Numbers of numpy and fractions are taken for what they are worth."""
    stages = [{"kind": "prune", "ratio": Fraction(1, 4), "align": np.int64(4)}, {"kind": "export", "to": "onnx"}]
    loaded = load_values(values(stages=stages), folder, ["stages.prune.floor=0.2"])
    assert loaded.raw["stages"][0] == {"kind": "prune", "ratio": 0.25, "align": 4, "floor": 0.2}


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (values(name=len), "recipe name: found <built-in function len>, allowed: text, paths, numbers, ..."),
        (values(name={1: 2}), "recipe name: found 1 as a key, allowed: keys of plain text"),
        (values(name=math.nan), "recipe name: found nan, allowed: a finite number"),
        (values(name="\ud800"), "recipe name: found half of a surrogate pair, allowed: text"),
        (values(budgte={}), "recipe budgte: found an unknown key, allowed: ...; did you mean budget?"),
    ],
    ids=["an object", "a number as key", "not a number", "half a character", "an unknown key"],
)
def test_what_no_recipe_can_hold_is_named(folder: Path, recipe: dict[str, Any], expected: str) -> None:
    """Values that YAML does not have are refused by their place."""
    start, _, end = expected.partition("...")
    (found,) = problems(folder, recipe)
    assert found.startswith(start)
    assert found.endswith(end)


def test_values_without_end_are_refused() -> None:
    """A list that holds itself ends in one problem."""
    endless: list[object] = []
    endless.append(endless)
    document = read_values({"name": endless})
    (problem,) = document.problems.values()
    assert (problem.key, problem.line) == ("name", None)
    assert "nested" in problem.message


def test_values_of_the_program_stay_as_they_are(folder: Path) -> None:
    """Loading and overriding change nothing of what was given."""
    given = values()
    load_values(given, folder, ["name=other", "stages.prune.ratio=0.3"])
    assert given == values()
