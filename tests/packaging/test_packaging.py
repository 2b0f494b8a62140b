"""What ships: the wheel's content, and that neither it nor an editable install claims the user's own package names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).resolve().parents[2]
#: Names that a user's folder may well have, and that must stay the user's.
COMMON_NAMES = ("models", "recipes", "tests", "benchmarks")

pytestmark = pytest.mark.slow


def python(code: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, with nothing but `path` on PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the wheel is installed into."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """Return a user's folder that has packages of common names, each of which refuses to be imported."""
    for name in COMMON_NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('imported the user's {name}')\n")
    return tmp_path


def test_the_top_level_is_the_package_alone(wheel: Path) -> None:
    """The wheel installs `pipeline` and its own metadata, and nothing else beside them."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"pipeline", f"secateur-{pipeline.__version__}.dist-info"}


def test_every_module_ships(wheel: Path) -> None:
    """No module or data file of the package is left out: the packages are listed by hand."""
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [path for path in (ROOT / "pipeline").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    missing = {path.relative_to(ROOT).as_posix() for path in sources} - names
    assert len(sources) > 40
    assert missing == set()


def test_recipes_and_models_ship_inside_the_package(wheel: Path) -> None:
    """Every recipe, the schema, and each model's definition, card and weights are package data."""
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = [*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "recipes").glob("schema.json")]
    models = [
        path for name in ("model.py", "card.md", "weights.safetensors") for path in (ROOT / "models").glob(f"*/{name}")
    ]
    assert len(recipes) >= 3
    assert len(models) >= 6
    assert {f"pipeline/{path.relative_to(ROOT).as_posix()}" for path in [*recipes, *models]} <= names


def test_tests_and_benchmarks_do_not_ship(wheel: Path) -> None:
    """What only developers need stays in the repository."""
    parts = {part for name in zipfile.ZipFile(wheel).namelist() for part in name.split("/")}
    assert not {"tests", "benchmarks"} & parts


def test_it_works_in_a_folder_with_the_same_names(installed: Path, decoy: Path) -> None:
    """The command runs in a folder whose own `models` or `recipes` would fail on import."""
    code = "import sys, pipeline.cli; print(pipeline.__file__); sys.argv = ['secateur', '--help']; pipeline.cli.main()"
    done = python(code, decoy, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert "Usage: secateur" in done.stdout


def test_the_users_names_stay_the_users(installed: Path, decoy: Path) -> None:
    """`import models` in a user's folder is the user's, and elsewhere nothing at all."""
    for name in COMMON_NAMES:
        assert f"imported the user's {name}" in python(f"import {name}", decoy, installed).stderr
        assert "ModuleNotFoundError" in python(f"import {name}", installed.parent, installed).stderr


def test_installed_recipes_are_valid(installed: Path, decoy: Path) -> None:
    """The recipes that come with the package are found there, and refer to models that are there, too."""
    code = (
        "from pipeline.recipe import bundled; from pipeline.recipe import load_recipe; print(bundled.bundled_root())\n"
        "for each in bundled.list_recipes(): print(load_recipe(each.path).recipe.model.definition.parents[2])"
    )
    done = python(code, decoy, installed)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 4
    assert set(done.stdout.split()) == {str(installed / "pipeline")}


def test_an_editable_install_keeps_the_repository_off_the_path(tmp_path: Path) -> None:
    """Developers, too, cannot import `models` or `recipes` by name."""
    origin = json.loads(distribution("secateur").read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        pytest.skip("secateur is not installed editable here")
    done = python("import sys, pipeline; print(*sys.path, sep='\\n')", tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout.splitlines()
    for name in COMMON_NAMES:
        assert "ModuleNotFoundError" in python(f"import {name}", tmp_path).stderr
