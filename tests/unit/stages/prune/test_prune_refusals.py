"""What the prune stage refuses, in one clear message, and what its configuration promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest
from pydantic import ValidationError

from pipeline.compress.pruning.importance.criteria import CRITERIA
from pipeline.core.errors import InputError, StageError
from pipeline.network.training_config import PruneSchedule
from pipeline.stages.prune import Prune
from tests.unit.stages.prune_networks import DATA, original, prune, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("key", ["keep", "rates", "constraints"])
def test_a_pattern_without_a_layer_shows_the_nearest(tmp_path: Path, key: str) -> None:
    """A typing error must not prune what was meant to stay."""
    settings: dict[str, object] = {
        "keep": {"keep": ["blok.0"]},
        "rates": {"allocation": "rates", "rates": {"blok.0": 0.5}},
        "constraints": {"constraints": {"blok.0": {"align": 1}}},
    }[key]  # type: ignore[assignment]
    with pytest.raises(InputError, match=rf"{key}: found 'blok\.0', which names no layer.*Nearest: block\.0"):
        run(prune(**settings), original(tmp_path), tmp_path / "pruned")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ratio": 0.01}, "Raise ratio"),
        ({"align": 32}, "no wider than align 32: stem.0, block.0"),
        ({"keep": ["*"]}, "named in keep: stem.0, block.0"),
        ({"allocation": "rates", "rates": {"stem.0": 0.01}}, "Raise ratio"),
    ],
)
def test_removing_nothing_is_an_error(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    """The message says why, and nothing is written."""
    with pytest.raises(StageError, match=f"would remove nothing.*{reason}"):
        run(prune(**settings), original(tmp_path), tmp_path / "pruned")
    assert not list((tmp_path / "pruned").iterdir())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ratio": 0.99, "align": 1}, r"ratio 0\.99 asks to remove 40 of 40 channels.*Lower ratio"),
        ({"target": {"macs": 0.001}}, "cannot be reached"),
        ({"target": {"macs": 0.75}, "align": 16}, "found no widths within 1% of .* macs.*Lower align"),
        ({"criterion": "hrank", "images": 41}, "images is 41, the training split has 40"),
        ({"criterion": "chip", "images": 8, "allocation": "rates", "rates": {"stem.0": 0.99}}, "Lower the rate"),
    ],
)
def test_an_aim_that_cannot_be_reached_is_refused(tmp_path: Path, settings: dict[str, object], reason: str) -> None:
    """The message says what is in the way."""
    with pytest.raises(InputError, match=reason):
        run(prune(**settings), original(tmp_path), tmp_path / "pruned", data=DATA)


def test_a_network_without_channels_to_remove_lists_the_reasons(tmp_path: Path) -> None:
    """A single layer has the classes on one side and the image on the other."""
    with pytest.raises(InputError, match=r"No channel of this network can be removed\. output of the network: fc"):
        run(prune(), original(tmp_path, "Alone"), tmp_path / "pruned")


def test_branches_on_values_are_refused(tmp_path: Path) -> None:
    """A forward that looks at its input's values cannot be captured; the message names the line."""
    with pytest.raises(InputError, match=r"cannot be exported.*definition\.py"):
        run(prune(), original(tmp_path, "Branches"), tmp_path / "pruned")


def test_a_free_image_size_is_refused(tmp_path: Path) -> None:
    """Only the batch may be dynamic."""
    with pytest.raises(InputError, match=r"fixed sizes apart from the batch; found x \(-1, 1, -1, -1\)"):
        run(prune(), original(tmp_path, shape=(-1, 1, -1, -1)), tmp_path / "pruned")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ratio": 0}, "ratio between 0 and 1"),
        ({"ratio": 1}, "ratio between 0 and 1"),
        ({"ratio": 0.5, "align": 0}, "greater than or equal to 1"),
        ({"ratio": 0.5, "floor": 1}, "ratio between 0 and 1"),
        ({"ratio": 0.5, "criterion": "best"}, "'group_l2'"),
        ({"ratio": 0.5, "x": 1}, "not permitted"),
        ({}, "found none of them, allowed: one of ratio, target, rates"),
        ({"ratio": 0.5, "target": {"macs": 0.5}}, "found ratio and target, allowed: one of"),
        ({"ratio": 0.5, "allocation": "rates"}, "found allocation rates with ratio"),
        ({"rates": {"a": 0.5}}, "found allocation global with rates"),
        ({"rates": {"a": 0.5}, "allocation": "rates", "candidates": 2}, "candidates with ratio or target"),
        ({"target": {}}, "found 0 costs, allowed: one of macs, parameters, size"),
        ({"target": {"macs": 0.5, "size": 0.5}}, "found 2 costs"),
        ({"ratio": 0.5, "granularity": "blocks", "criterion": "l1"}, "found granularity blocks with criterion"),
        ({"ratio": 0.5, "schedule": {"method": "soft"}}, "epochs"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object], said: str) -> None:
    """Ratios lie strictly between 0 and 1, unknown keys are errors, and there is one aim."""
    with pytest.raises(ValidationError, match=said):
        Prune.model_validate({"kind": "prune", **wrong})


def test_every_criterion_can_be_asked_for() -> None:
    """The names that a recipe may use are those of the table of criteria."""
    assert set(get_args(Prune.model_fields["criterion"].annotation)) == set(CRITERIA)


def test_every_knob_is_described() -> None:
    """The description of a field is its only documentation."""
    fields = {name: field for name, field in Prune.model_fields.items() if name != "kind"}
    assert all(len(str(field.description)) > 20 for field in fields.values())
    assert (prune().criterion, prune().allocation, prune().normalise) == ("l2", "global", None)
    assert prune().consumes == {"torch"}


def test_a_teacher_of_the_schedule_counts_by_its_files(tmp_path: Path) -> None:
    """Files of a teacher are part of the stage's key."""
    for name in ("model.py", "weights.pt"):
        (tmp_path / name).touch()
    teacher = {"definition": tmp_path / "model.py", "weights": tmp_path / "weights.pt"}
    schedule = PruneSchedule.model_validate({"epochs": 1, "distill": {"from": teacher}})
    assert prune(schedule=schedule).files() == (tmp_path / "model.py", tmp_path / "weights.pt")
    assert prune().files() == ()
