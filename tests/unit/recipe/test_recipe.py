"""Reading recipes: what a good one becomes, every way in which one is wrong, overrides, and the schema.

tests/cases/recipes/ holds one wrong recipe per file: the YAML, a line `# expect:`, and the expected problems, one a
line (line number, or `-` where there is none, then key and message). `...` in an expected problem is any text. Modules
that a line `# without:` names count as not installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from pipeline.core.errors import RecipeError
from pipeline.core.units import Factor
from pipeline.data.config import Elpv, ImageFolder
from pipeline.recipe import Budget, chain_problems, load_recipe, schema
from pipeline.stages import quantize

if TYPE_CHECKING:
    from pipeline.recipe import LoadedRecipe

ROOT = Path(__file__).resolve().parents[3]
CASES = sorted((ROOT / "tests" / "cases" / "recipes").rglob("*.yaml"))
GOOD = """\
# yaml-language-server: $schema=schema.json
format: 1
name: a good recipe
model: {definition: models/model.py, arguments: {classes: 2, wide: true, width: 1.5, head: linear}}
data: {source: elpv, validation: 25%}
budget: {latency: 0.25x, accuracy_drop: 0.5pt, size: 2MB}
stages:
  - {kind: prune, ratio: 50%}
  - {kind: finetune, epochs: 3}
  - {kind: export, to: onnx}
  - {kind: quantize}
  - {kind: measure}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model definition, in the two places that the recipes here name."""
    (tmp_path / "models").mkdir()
    for path in (tmp_path / "model.py", tmp_path / "models" / "model.py"):
        path.write_text("def build(): ...\n")
    return tmp_path


def load(folder: Path, text: str, *overrides: str) -> LoadedRecipe:
    """Write a recipe and load it."""
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    """Return the lines of the error that a recipe gives, without the file's name."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    return [line.removeprefix(f"{folder / 'recipe.yaml'}").lstrip(": ") for line in str(caught.value).splitlines()]


def test_a_good_recipe_becomes_typed_values(folder: Path) -> None:
    """Units are parsed, defaults filled, and stages are of their own class."""
    recipe = load(folder, GOOD).recipe
    assert recipe.data == Elpv(source="elpv", validation=0.25)
    assert recipe.budget == Budget(latency=Factor(0.25), accuracy_drop="0.5pt", size="2MB")  # type: ignore[arg-type]
    assert recipe.model.arguments == {"classes": 2, "wide": True, "width": 1.5, "head": "linear"}
    assert [stage.kind for stage in recipe.stages] == ["prune", "finetune", "export", "quantize", "measure"]
    assert (recipe.target.runtime, recipe.target.threads) == ("onnxruntime", 1)


def test_paths_start_at_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is resolved from the recipe's folder, wherever the command runs."""
    (folder / "recipe.yaml").write_text(GOOD)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    loaded = load_recipe(Path("..") / "recipe.yaml")
    assert loaded.recipe.model.definition == folder / "models" / "model.py"
    assert loaded.path == folder / "recipe.yaml"


def test_a_path_of_the_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a path is the user's home."""
    monkeypatch.setenv("HOME", str(folder / "models"))
    text = GOOD.replace("models/model.py", "~/model.py")
    assert load(folder, text).recipe.model.definition == folder / "models" / "model.py"


def test_the_digest_is_of_the_values_not_of_the_text(folder: Path) -> None:
    """Comments and layout leave the digest as it is; a value changes it."""
    plain = load(folder, GOOD).digest
    assert (
        load(folder, GOOD.replace("kind: prune, ratio: 50%", "ratio: 50%,  kind: prune") + "# done\n").digest == plain
    )
    assert load(folder, GOOD.replace("50%", "40%")).digest != plain
    assert load(folder, GOOD, "stages.0.ratio=0.4").digest != plain


def test_a_date_stays_text(folder: Path) -> None:
    """A plain scalar that looks like a date is the name that was written."""
    assert load(folder, GOOD.replace("a good recipe", "2026-01-31")).recipe.name == "2026-01-31"


@pytest.mark.parametrize("text", ["\ufeff" + GOOD, GOOD.replace("\n", "\r\n")], ids=["byte order mark", "CRLF"])
def test_files_from_other_systems_are_read(folder: Path, text: str) -> None:
    """A byte order mark and carriage returns change nothing."""
    (folder / "recipe.yaml").write_bytes(text.encode())
    assert load_recipe(folder / "recipe.yaml").recipe.name == "a good recipe"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_problem_is_found_with_line_and_cure(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong recipe gives exactly the expected problems, in one pass."""
    without = re.findall(rb"# without: (.*)", path.read_bytes())
    monkeypatch.setattr(quantize, "find_spec", lambda name: None if name.encode() in without else find_spec(name))
    yaml, _, expected = path.read_bytes().partition(b"# expect:\n")
    recipe = folder / "recipe.yaml"
    recipe.write_bytes(yaml)
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    found = [f"{each.line or '-'} {each.key}: {each.message}" for each in caught.value.problems]
    patterns = [re.escape(line).replace(r"\.\.\.", ".*") for line in expected.decode().splitlines()]
    assert len(found) == len(patterns), "\n".join(found)
    for line, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_there_are_cases() -> None:
    """The folder of wrong recipes is found, and each of its files expects something."""
    assert len(CASES) >= 35
    assert all(path.read_bytes().partition(b"# expect:\n")[2].strip() for path in CASES)


def test_an_error_begins_with_file_and_line(folder: Path) -> None:
    """The text of an error is one line for each problem, as compilers and editors write it."""
    with pytest.raises(RecipeError, match=re.escape(f"{folder / 'recipe.yaml'}:3 name: found 7, allowed: text")):
        load(folder, GOOD.replace("a good recipe", "7"))


@pytest.mark.parametrize("name", ["nowhere.yaml", "models"])
def test_what_is_no_file_is_said_to_be_none(folder: Path, name: str) -> None:
    """A path that leads nowhere, or to a folder, is refused by name."""
    with pytest.raises(RecipeError, match=f"{name} recipe: found (no such file|a folder), allowed: a recipe in YAML"):
        load_recipe(folder / name)


def test_overrides_change_values_and_make_what_was_left_out(folder: Path) -> None:
    """Overrides reach list positions, stages by kind, mappings that were absent, and free arguments."""
    loaded = load(
        folder,
        GOOD,
        "stages.0.ratio=0.3",
        "stages.finetune.epochs=1",
        "stages.finetune.distill.temperature=2",
        "target={threads: 2}",
        "model.arguments.depth=4",
        "budget=",
    )
    config = loaded.recipe.stages[1].model_dump(by_alias=True)
    assert loaded.raw["stages"][0]["ratio"] == 0.3
    assert (config["epochs"], config["distill"]["temperature"]) == (1, 2)
    assert loaded.recipe.target.threads == 2
    assert loaded.recipe.model.arguments["depth"] == 4
    assert loaded.recipe.budget is None


def test_an_override_does_not_stay(folder: Path) -> None:
    """Overriding a recipe leaves its file, and the next load, as they were."""
    load(folder, GOOD, "name=other")
    assert load_recipe(folder / "recipe.yaml").recipe.name == "a good recipe"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.0.ratio", "--set stages.0.ratio: found no key=value, allowed: a key and a value, such as ..."),
        ("=1", "--set =1: found no key=value, allowed: ..."),
        ("targets.threads=1", "...: found no key targets in recipe, allowed: ...; did you mean target?"),
        ("target.thread=1", "...: found no key thread in target, allowed: device, ...; did you mean threads?"),
        ("stages.0.ratoi=1", "...: found no key ratoi in stages.0, allowed: kind, ...; did you mean ratio?"),
        ("stages.9.ratio=1", "...: found no entry 9 in stages, allowed: 0 (prune), 1 (finetune), ..."),
        ("stages.simplify.x=1", "...: found no entry simplify in stages, allowed: 0 (prune), ..."),
        ("name.first=1", '...: found "a good recipe" at name, allowed: a key of a mapping or a list'),
        ("name=[", "--set name=[: found invalid YAML (...), allowed: valid YAML"),
        ("name=.nan", "--set name=.nan: found .nan, allowed: a finite number"),
        ("stages.0.ratio=2", "--set stages.0.ratio: found 2, allowed: a ratio between 0 and 1, such as 0.5 or 50%"),
        ("stages.0={kind: prun}", '--set stages.0.kind: found "prun", allowed: ...; did you mean prune?'),
        ("stages=[]", "--set stages: found [], allowed: a list of 1 or more"),
        ("stages.export.to=onxx", '--set stages.2.to: found "onxx", allowed: ...; did you mean onnx?'),
    ],
)
def test_wrong_overrides_are_named(folder: Path, override: str, expected: str) -> None:
    """An override that names nothing, or whose value is wrong, is reported as what it is: a `--set`."""
    (found,) = problems(folder, GOOD, override)
    assert re.fullmatch(re.escape(expected).replace(r"\.\.\.", ".*"), found), found


def test_a_kind_that_stands_twice_needs_its_position(folder: Path) -> None:
    """A stage is addressed by kind where it is the only one of that kind."""
    text = GOOD.replace("  - {kind: export", "  - {kind: finetune, epochs: 2}\n  - {kind: export")
    (found,) = problems(folder, text, "stages.finetune.epochs=1")
    assert found.endswith(
        "found finetune more than once in stages, allowed: its position, 1 and 2 (rows 2 and 3 of the plan)"
    )


def test_problems_of_file_and_overrides_come_together(folder: Path) -> None:
    """One pass reports what is wrong in the file, in the keys of overrides and in their values."""
    found = problems(folder, GOOD.replace("source: elpv", "source: elpv, sise: 1"), "nam=x", "target.threads=0")
    assert [line.split(": found")[0] for line in found] == ["--set nam=x", "--set target.threads", "5 data.sise"]


def test_the_chain_of_a_good_recipe_has_no_problem(folder: Path) -> None:
    """Forms that fit from stage to stage give no problem."""
    assert list(chain_problems(load(folder, GOOD).recipe.stages)) == []


def test_statistics_are_given_together() -> None:
    """A mean without a standard deviation is refused when a configuration is built in Python, too."""
    with pytest.raises(ValidationError, match="only one of mean and std"):
        ImageFolder(source="folder", root=Path("images"), size=32, mean=(0.5, 0.5, 0.5))


def test_every_key_of_the_schema_has_a_description() -> None:
    """What a key means is said where it is defined, and so reaches the editor."""
    described = schema()
    silent = [
        f"{name}.{key}"
        for name, part in described["$defs"].items()
        for key, node in part.get("properties", {}).items()
        if "description" not in node and "$ref" not in node and key not in {"kind", "source"}
    ]
    assert silent == []
    assert described["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_gives_defaults_as_a_recipe_writes_them() -> None:
    """A default with a unit is text that its own pattern takes."""
    texts = [
        (node["default"], node["pattern"])
        for part in schema()["$defs"].values()
        for node in part.get("properties", {}).values()
        if "pattern" in node and "default" in node
    ]
    assert texts
    assert all(re.search(pattern, default) for default, pattern in texts)


def test_the_stored_schema_is_current() -> None:
    """recipes/schema.json is what `secateur schema` prints now (write it anew with `make schema`)."""
    stored: dict[str, Any] = json.loads((ROOT / "recipes" / "schema.json").read_text())
    assert stored == json.loads(json.dumps(schema()))


def test_reading_recipes_loads_nothing_heavy() -> None:
    """Importing the recipe module, and so every stage, loads no torch and no runtime."""
    code = "import sys, pipeline.recipe; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "pydantic" in loaded
    assert not {"torch", "onnx", "onnxruntime", "onnxsim", "openvino"} & set(loaded)
