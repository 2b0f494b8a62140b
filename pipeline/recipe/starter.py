"""A recipe for each kind of task that runs as it is, with samples and a network to be replaced."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pipeline.core.paths import bundled_root

if TYPE_CHECKING:
    from pathlib import Path


def write_starter(kind: str, folder: Path) -> list[Path]:
    """Copy the starter of a kind into a folder, which is made where it is missing, and return its files.

    Raises:
        FileExistsError: one of them is there already; nothing is written then.
    """
    recipes = bundled_root() / "recipes"
    sources = [*sorted((recipes / "starters" / kind).glob("*.*")), recipes / "schema.json"]
    targets = [folder / source.name for source in sources]
    for target in targets:
        if target.exists():
            raise FileExistsError(17, "exists already", str(target))
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in zip(sources, targets, strict=True):
        shutil.copyfile(source, target)
    return targets
