"""What the pages say is true: their recipes are valid, their commands exist, nothing was left to be filled in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline import __version__
from pipeline.api import Result
from pipeline.cli import app
from pipeline.core.stage import Stage  # noqa: TC001 (the adapter's annotation is evaluated)
from pipeline.recipe import load_recipe, load_values
from pipeline.stages import AnyStage

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("models/*/card.md")])
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))
PLACEHOLDER = re.compile(r"\b(TODO|FIXME|XXX|TBD|[A-Z][A-Z0-9]+(VAL|TEST|SPREAD)|TIME_[A-Z0-9]+)\b")


def test_there_are_pages_and_recipes() -> None:
    """The patterns above find what they should."""
    assert len(PAGES) >= 11
    assert len(RECIPES) >= 8


def test_recipe_of_the_readme_is_valid(tmp_path: Path) -> None:
    """The YAML block of the README is a valid recipe when it lies in recipes/."""
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "recipes" / "readme.yaml").write_text(block)
    assert len(load_recipe(tmp_path / "recipes" / "readme.yaml").recipe.stages) == 8


def test_stages_of_the_readme_are_valid() -> None:
    """So are the stages that it shows by themselves."""
    blocks = re.findall(r"```yml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    adapter: TypeAdapter[Stage] = TypeAdapter(AnyStage)
    stages = [adapter.validate_python(stage) for block in blocks for stage in YAML(typ="safe").load(block)]
    assert {stage.kind for stage in stages} >= {"prune", "quantize", "quantize-aware-finetune"}


def test_python_of_the_readme_is_valid(tmp_path: Path) -> None:
    """Its recipe is one, and what it says of a result is there; EXAMPLES.md has a program that is run."""
    (block,) = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    compile(block, "README.md", "exec")
    names: dict[str, Any] = {}
    exec(block.partition("result =")[0], names)  # noqa: S102 - the project's own page
    (tmp_path / "images").mkdir()
    for name in ("model.py", "mine.safetensors"):
        (tmp_path / name).touch()
    recipe = names["recipe"]
    assert [stage.kind for stage in load_values(recipe.values, tmp_path).recipe.stages] == [
        "prune",
        "export",
        "quantize",
    ]
    used = set(re.findall(r"\bresult\.(\w+)", block))
    assert len(used) >= 4
    assert used <= {*dir(Result), *Result.__annotations__}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_opens_with_what_a_reader_needs(path: Path) -> None:
    """Every recipe points to the schema and says what it is for, the command, its time and where its result is."""
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert f"secateur run recipes/{path.name}" in "\n".join(head)
    assert sum(line.startswith(("# Run:", "# Time:", "# Result:")) for line in head) == 3


@pytest.mark.parametrize("page", ["README.md", "BOARDS.md"])
def test_commands_of_a_page_exist(page: str) -> None:
    """Every `secateur ...` of a page is a command, and its options are options of that command."""
    lines = re.findall(r"^secateur ([^#\n]+)", (ROOT / page).read_text(), re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        words = line.split()
        command = words[:2] if words[0] in {"recipes", "device"} else words[:1]
        shown = CliRunner().invoke(app, [*command, "--help"])
        assert shown.exit_code == 0, line
        assert all(word in shown.output for word in words if word.startswith("--")), line


@pytest.mark.parametrize("path", [*PAGES, *RECIPES], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_to_be_filled_in(path: Path) -> None:
    """No placeholder stands in a page or a recipe."""
    assert not PLACEHOLDER.search(path.read_text())


def test_changelog_knows_the_version_or_says_unreleased() -> None:
    """The changelog has a section for this version, or for what is not released yet."""
    text = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{__version__}]" in text or "## [Unreleased]" in text


def test_every_model_has_a_card_and_every_weight_file_a_recipe() -> None:
    """A definition has its card; weights that are committed can be made again by a recipe that the card names."""
    for definition in ROOT.glob("models/*/model.py"):
        card = (definition.parent / "card.md").read_text()
        if (definition.parent / "weights.safetensors").exists():
            names = re.findall(r"recipes/(train-[a-z0-9-]+\.yaml)", card)
            assert names
            assert all((ROOT / "recipes" / name).exists() for name in names)
