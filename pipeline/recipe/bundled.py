"""The recipes and models that come with Secateur: where they are, what there is, and a copy to start from.

A recipe refers to its model as `../models/<name>/model.py`, so `recipes/` and `models/` lie side by side everywhere: in
a checkout, inside the installed package, and in a copy.
"""

from __future__ import annotations

import difflib
import re
import shutil
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.core.paths import bundled_root

if TYPE_CHECKING:
    from pathlib import Path

_MODEL_REFERENCE = re.compile(r"\.\./models/([A-Za-z0-9_-]+)/")
_EDITOR_COMMENT = "# yaml-language-server:"


@dataclass(frozen=True)
class BundledRecipe:
    """Name and file of a recipe, and what its first comment says: what it is for, and how long it takes."""

    name: str
    path: Path
    purpose: str
    time: str


def list_recipes() -> tuple[BundledRecipe, ...]:
    """Return all recipes that come with Secateur, by name."""
    paths = sorted((bundled_root() / "recipes").glob("*.yaml"))
    return tuple(_read(path) for path in paths)


def _find_recipe(name: str) -> BundledRecipe:
    """Return the recipe of that name. Raises InputError that names the recipes there are."""
    known = {recipe.name: recipe for recipe in list_recipes()}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        suggestion = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"found no bundled recipe {name}, allowed: {', '.join(known)}{suggestion}")
    return known[name]


def copy_recipe(name: str, destination: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Copy a recipe, the schema and the models that it refers to, into `recipes/` and `models/` of a folder.

    Args:
        name: name of a bundled recipe.
        destination: folder to copy into; made when it does not exist.
        overwrite: replace files that are there already.

    Returns:
        The files that were written, the recipe first.

    Raises:
        InputError: there is no such recipe, or files are there already (nothing is written then).
    """
    recipe = _find_recipe(name)
    sources = [recipe.path, bundled_root() / "recipes" / "schema.json", *_model_files(recipe.path)]
    targets = [destination / source.relative_to(bundled_root()) for source in sources]
    existing = [str(target) for target in targets if target.exists()]
    if existing and not overwrite:
        advice = "choose another folder, or allow overwriting"
        raise InputError(f"found {', '.join(existing)} already, expected none of them: {advice}")
    for source, target in zip(sources, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return tuple(targets)


def _model_files(recipe: Path) -> list[Path]:
    names = sorted(set(_MODEL_REFERENCE.findall(recipe.read_text(encoding="utf-8"))))
    found = (path for name in names for path in sorted((bundled_root() / "models" / name).iterdir()))
    return [path for path in found if path.is_file()]


def _read(path: Path) -> BundledRecipe:
    """Take purpose and time from the comment at the top: its first line that is not for editors, and `# Time: ...`."""
    comment = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    lines = [line.removeprefix("#").strip() for line in comment if not line.startswith(_EDITOR_COMMENT)]
    times = [line.removeprefix("Time:").strip() for line in lines if line.startswith("Time:")]
    return BundledRecipe(path.stem, path, purpose="".join(lines[:1]), time="".join(times[:1]))
