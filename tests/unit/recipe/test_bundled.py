"""Recipes that come with the program: listed, found by name and copied with what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.recipe import bundled

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """\
# yaml-language-server: $schema=schema.json
# Finds cracks on a small CPU.
# Time:   two minutes on two cores
format: 1
model: {definition: ../models/small/model.py, weights: ../models/small/weights.safetensors}
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with one recipe and two models, of which the recipe names one."""
    root = tmp_path / "checkout"
    for name in ("small", "other"):
        (root / "models" / name / "__pycache__").mkdir(parents=True)
        for file in ("model.py", "card.md"):
            (root / "models" / name / file).write_text(f"{name} {file}")
    (root / "recipes").mkdir()
    (root / "recipes" / "cracks.yaml").write_text(RECIPE)
    (root / "recipes" / "schema.json").write_text("{}")
    monkeypatch.setattr(bundled, "bundled_root", lambda: root)
    return root


def test_the_bundled_recipes_say_what_they_are_for() -> None:
    """Each recipe in the repository has a purpose and a time in its first comment."""
    found = bundled.list_recipes()
    assert len(found) >= 3
    assert all(each.purpose and each.time for each in found)


def test_a_recipe_is_listed_with_purpose_and_time(checkout: Path) -> None:
    """Purpose and time are read from the comment; the line for editors is not one of them."""
    path = checkout / "recipes" / "cracks.yaml"
    expected = bundled.BundledRecipe("cracks", path, "Finds cracks on a small CPU.", "two minutes on two cores")
    assert bundled.list_recipes() == (expected,)


@pytest.mark.usefixtures("checkout")
def test_a_copy_has_the_recipe_the_schema_and_its_model(tmp_path: Path) -> None:
    """What a recipe refers to is copied beside it, so that its relative paths hold; other models are not."""
    written = bundled.copy_recipe("cracks", tmp_path / "mine")
    expected = ["recipes/cracks.yaml", "recipes/schema.json", "models/small/card.md", "models/small/model.py"]
    assert [path.relative_to(tmp_path / "mine").as_posix() for path in written] == expected
    assert (tmp_path / "mine" / "models" / "small" / "model.py").read_text() == "small model.py"


@pytest.mark.usefixtures("checkout")
def test_files_that_are_there_are_kept_unless_told(tmp_path: Path) -> None:
    """A file in the way is named, and nothing is written; with `overwrite` it is replaced."""
    mine = tmp_path / "mine" / "models" / "small" / "model.py"
    mine.parent.mkdir(parents=True)
    mine.write_text("changed")
    with pytest.raises(InputError, match=r"models/small/model\.py already"):
        bundled.copy_recipe("cracks", tmp_path / "mine")
    assert mine.read_text() == "changed"
    assert not (tmp_path / "mine" / "recipes").exists()
    bundled.copy_recipe("cracks", tmp_path / "mine", overwrite=True)
    assert mine.read_text() == "small model.py"


@pytest.mark.usefixtures("checkout")
def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    """A misspelt recipe is named with what is there and what was perhaps meant."""
    with pytest.raises(InputError, match=r"no bundled recipe crack, allowed: cracks; did you mean cracks\?"):
        bundled.copy_recipe("crack", tmp_path)
