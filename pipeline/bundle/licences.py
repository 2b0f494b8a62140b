"""Licences of the weights and the data of a bundle: as a person said, else as is known, else not stated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.paths import resolve_path
from pipeline.results.bundle import NOT_STATED

if TYPE_CHECKING:
    from pipeline.bundle.content import Content

#: The row of a model's card: a licence, and in brackets what it is about where that is not everything.
_ROW = re.compile(r"^\| *licence *\| *([^(|]+?) *(?:\((.*)\))? *\|$", re.MULTILINE)


def data_licence(content: Content) -> str:
    """Return the licence of the data: the option, else what the data set says of itself."""
    return content.options.data_licence or content.task.data.licence or NOT_STATED


def weights_licence(content: Content) -> str:
    """Return the licence of the weights: the option, else that of the card beside the recipe's model.

    The card describes the weights next to it, not those from elsewhere and not networks trained from scratch.
    """
    if content.options.weights_licence:
        return content.options.weights_licence
    model, start = content.report.recipe["model"], content.report.recipe_folder
    definition, weights = (str(model.get(key) or "") for key in ("definition", "weights"))
    if not (definition.endswith(".py") and weights and start):
        return NOT_STATED
    folder = resolve_path(Path(definition), Path(start)).parent
    card = folder / "card.md"
    if resolve_path(Path(weights), Path(start)).parent != folder or not card.is_file():
        return NOT_STATED
    return licence_in(card.read_text(encoding="utf-8"))


def licence_in(card: str) -> str:
    """Return the licence of the weights by the text of a model's card."""
    found = _ROW.search(card)
    if not found or (found[2] and "weights" not in found[2]):
        return NOT_STATED
    return found[1]
