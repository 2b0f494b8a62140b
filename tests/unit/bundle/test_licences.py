"""Licences of a bundle: what a person says, what a card says of the weights beside it, and what nobody said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from pipeline.bundle.licences import data_licence, licence_in, weights_licence
from pipeline.results.bundle import NOT_STATED, BundleOptions

if TYPE_CHECKING:
    from pipeline.bundle.content import Content

MODELS = Path(__file__).parents[3] / "models"


def content(folder: Path, model: dict[str, Any], *, licence: str = "", **options: Any) -> Content:  # noqa: ANN401
    """Return what a bundle is made from, as far as licences look at it."""
    report = SimpleNamespace(recipe={"model": model}, recipe_folder=str(folder))
    task = SimpleNamespace(data=SimpleNamespace(licence=licence))
    found = SimpleNamespace(report=report, task=task, options=BundleOptions(**options))
    return cast("Content", found)


@pytest.mark.parametrize(
    ("row", "licence"),
    [
        ("| licence | MIT |", "MIT"),
        ("| licence | Apache-2.0 (definition and weights) |", "Apache-2.0"),
        ("| licence | Apache-2.0 (definition and weights; trained on others' images) |", "Apache-2.0"),
        ("| licence | Apache-2.0 (the definition) |", NOT_STATED),
        ("| licence | Apache-2.0 (the definition); a checkpoint's card says that of its weights |", NOT_STATED),
        ("| weights | none |", NOT_STATED),
    ],
)
def test_row_of_a_card(row: str, licence: str) -> None:
    """The row counts for weights unless it says that it is about something else."""
    assert licence_in(f"# Model\n\n| | |\n|---|---|\n{row}\n\nText.\n") == licence


def test_every_card_beside_weights_states_their_licence() -> None:
    """Weights that come with the project have a licence that a bundle can name."""
    cards = [path.parent / "card.md" for path in MODELS.glob("*/weights.safetensors")]
    assert len(cards) >= 6
    assert {licence_in(card.read_text()) for card in cards} == {"Apache-2.0"}


@pytest.mark.parametrize(
    ("model", "licence"),
    [
        ({"definition": "net/model.py", "weights": "net/weights.safetensors"}, "MIT"),
        ({"definition": "net/model.py", "weights": "mine.safetensors"}, NOT_STATED),
        ({"definition": "net/model.py"}, NOT_STATED),
        ({"definition": "timm:resnet18", "weights": "net/weights.safetensors"}, NOT_STATED),
        ({"definition": "other/model.py", "weights": "other/weights.safetensors"}, NOT_STATED),
    ],
)
def test_a_card_speaks_for_the_weights_beside_it(tmp_path: Path, model: dict[str, str], licence: str) -> None:
    """Weights from elsewhere, and networks that start at random, are not the card's."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "card.md").write_text("| licence | MIT |\n")
    assert weights_licence(content(tmp_path, model)) == licence
    assert weights_licence(content(tmp_path, model, weights_licence="LicenseRef-Ours")) == "LicenseRef-Ours"


def test_licence_of_the_data(tmp_path: Path) -> None:
    """The option comes first, then the data set's own, then the words that nobody said one."""
    assert data_licence(content(tmp_path, {}, licence="MIT", data_licence="CC0-1.0")) == "CC0-1.0"
    assert data_licence(content(tmp_path, {}, licence="MIT")) == "MIT"
    assert data_licence(content(tmp_path, {})) == NOT_STATED
