"""What the pages say is true: their recipes are valid, their commands exist, nothing was left to be filled in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML
from typer.testing import CliRunner

from pipeline import __version__
from pipeline.cli import app
from pipeline.core.stage import Stage  # noqa: TC001 (the adapter's annotation is evaluated)
from pipeline.recipe import Recipe, load_recipe
from pipeline.stages import AnyStage
from tests.pages import DOCS, ROOT, anchors, blocks, guides, links

if TYPE_CHECKING:
    from pathlib import Path

GUIDES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
PATTERNS = ("*.md", "docs/*.md", "recipes/*.md", "benchmarks/*.md", "models/*/card.md", ".github/actions/*/README.md")
PAGES = sorted(page for pattern in PATTERNS for page in ROOT.glob(pattern))
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))
PLACEHOLDER = re.compile(r"\b(TODO|FIXME|XXX|TBD|[A-Z][A-Z0-9]+(VAL|TEST|SPREAD)|TIME_[A-Z0-9]+)\b")


def test_there_are_pages_and_recipes() -> None:
    """The patterns above find what they should."""
    assert len(PAGES) >= 11
    assert len(RECIPES) >= 8


def test_recipes_of_the_readme_are_valid(tmp_path: Path) -> None:
    """The README's detector is a valid recipe beside its files, and its classifier one when it lies in recipes/."""
    detector, block = (block.text for block in blocks(ROOT / "README.md") if block.language == "yaml")
    (tmp_path / "detector.yaml").write_text(detector)
    for name in ("model.py", "data.py", "weights.safetensors"):
        (tmp_path / name).touch()
    assert load_recipe(tmp_path / "detector.yaml").recipe.task is not None
    (tmp_path / "recipes").mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "recipes" / "readme.yaml").write_text(block)
    assert len(load_recipe(tmp_path / "recipes" / "readme.yaml").recipe.stages) == 8


def test_parts_of_recipes_in_the_guides_are_valid() -> None:
    """Stages that a page shows by themselves, and other keys of a recipe."""
    shown = [YAML(typ="safe").load(block.text) for page in GUIDES for block in blocks(page) if block.language == "yml"]
    adapter: TypeAdapter[Stage] = TypeAdapter(AnyStage)
    stages = [adapter.validate_python(stage) for part in shown if isinstance(part, list) for stage in part]
    assert {stage.kind for stage in stages} >= {"prune", "quantize", "quantize-aware-finetune"}
    for key, value in ((key, value) for part in shown if isinstance(part, dict) for key, value in part.items()):
        TypeAdapter(Recipe.model_fields[key].annotation).validate_python(value)


def test_figures_of_the_readme_are_those_that_were_measured() -> None:
    """Each row of its table stands in the table of recipes/README.md, which benchmarks/recipes.py writes."""
    tables = [(ROOT / page).read_text().splitlines() for page in ("README.md", "recipes/README.md")]
    shown, measured = ([_figures(line) for line in table if re.match(r"\|.*\d+x \[", line)] for table in tables)
    assert len(shown) == 3
    assert all(any(set(row) <= set(each) for each in measured) for row in shown)


def _figures(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[2:-1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file of the project, and its anchor is a heading there."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), link
        assert not anchor or anchor in anchors(found), link


def test_every_guide_is_reached() -> None:
    """README leads to every page of docs/, and so does the list there."""
    pages = set(DOCS.glob("*.md")) - {DOCS / "README.md"}
    assert len(pages) >= 10
    assert pages == set(guides())
    assert pages <= {ROOT / link for link in links(ROOT / "README.md")}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_opens_with_what_a_reader_needs(path: Path) -> None:
    """Every recipe points to the schema and says what it is for, the command, its time and where its result is."""
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert f"secateur run recipes/{path.name}" in "\n".join(head)
    assert sum(line.startswith(("# Run:", "# Time:", "# Result:")) for line in head) == 3


def test_commands_of_the_guides_exist() -> None:
    """Every `secateur ...` is a command, and its options are options of that command, also where no test can run it."""
    shell = "".join(block.text for page in GUIDES for block in blocks(page) if block.language in {"sh", "console"})
    lines = [line.split() for line in re.findall(r"^secateur ([^#(\n]+)", shell, re.MULTILINE)]
    assert len(lines) >= 40
    named = {tuple(words[:2] if words[0] in {"recipes", "device", "store", "task"} else words[:1]) for words in lines}
    shown = {command: CliRunner().invoke(app, [*command, "--help"]) for command in named}
    assert not [command for command, result in shown.items() if result.exit_code]
    for words in lines:
        (options,) = (shown[command].output for command in named if command == tuple(words[: len(command)]))
        assert all(word in options for word in words if word.startswith("--")), words


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
            names = re.findall(r"((?:recipes|benchmarks/tasks)/train-[a-z0-9_-]+\.yaml)", card)
            assert names
            assert all((ROOT / name).exists() for name in names)
