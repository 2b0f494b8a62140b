"""Sparsify by second-order methods: weights that stay change, zeros have the density, statistics move along."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from pydantic import ValidationError

from pipeline.core.errors import InputError
from pipeline.network.masks import masks_of, sparse_names
from pipeline.network.stored import load_network
from pipeline.stages.sparsify import Sparsify

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Outcome

    Run = Callable[..., tuple[Artifact, Outcome]]

METHODS = ["obs", "block_fisher", "obd"]


def sparsify(**settings: object) -> Sparsify:
    """Return a stage that looks at all forty images."""
    return Sparsify.model_validate({"kind": "sparsify", "images": 40, "batch": 16, **settings})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_zeros_have_the_density_and_are_stored_as_masks(
    run_stage: Run, network: Artifact, method: str, scope: str
) -> None:
    """672 weights in three layers."""
    artifact, outcome = run_stage(sparsify(method=method, scope=scope, density=0.25, dead="keep"), network, "sparse")
    changed = json.loads(json.dumps(outcome.changed, allow_nan=False))
    masks = masks_of(load_network(artifact), sparse_names(artifact))
    assert sorted(masks) == ["conv.weight", "fc.weight", "stem.weight"]
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    assert sum(kept.values()) == 168 == round(changed["density"]["after"] * 672)
    if scope == "layer":
        assert kept == {"stem.weight": 18, "conv.weight": 144, "fc.weight": 6}
    assert changed["statistics"] == "corrected"


@pytest.mark.parametrize("method", METHODS)
def test_what_stays_changes_where_the_method_says_so(run_stage: Run, network: Artifact, method: str) -> None:
    """OBD leaves weights as they are; statistics move, biases never change."""
    artifact, _ = run_stage(sparsify(method=method, density=0.5, dead="keep"), network, "sparse")
    before, after = load_network(network).state_dict(), load_network(artifact).state_dict()
    kept = after["conv.weight"] != 0
    assert torch.equal(before["conv.weight"][kept], after["conv.weight"][kept]) == (method == "obd")
    assert not torch.equal(before["bn.running_var"], after["bn.running_var"])
    for name in ("conv.bias", "fc.bias", "bn.weight"):
        assert torch.equal(before[name], after[name])


def test_obs_is_nearer_to_the_network_than_magnitude(run_stage: Run, network: Artifact) -> None:
    """Outputs on images that it has not seen, at equal density in each layer."""
    images = torch.randint(0, 256, (64, 1, 8, 8), generator=torch.Generator().manual_seed(9)).float() / 64 - 2
    expected = load_network(network)(images).detach()
    errors = {}
    for method in ("obs", "magnitude"):
        artifact, _ = run_stage(sparsify(method=method, density=0.3), network, method)
        errors[method] = float((load_network(artifact)(images).detach() - expected).square().mean())
    assert errors["obs"] < 0.5 * errors["magnitude"]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_network(run_stage: Run, network: Artifact, method: str) -> None:
    """Digests of the payload are equal; a second, sparser stage keeps the zeros of the first."""
    stage = sparsify(method=method, density=0.5)
    first, second = (run_stage(stage, network, name)[0] for name in ("one", "two"))
    assert first.digest == second.digest
    sparser, _ = run_stage(sparsify(method=method, density=0.2), first, "sparser")
    old, new = (masks_of(load_network(each), sparse_names(each)) for each in (first, sparser))
    assert not any(bool((new[name] & ~old[name]).any()) for name in old)


def test_obs_keeps_two_of_four(run_stage: Run, network: Artifact) -> None:
    """The stem has one input channel, and stays dense."""
    artifact, _ = run_stage(sparsify(method="obs", pattern="2:4", keep=["stem"]), network, "sparse")
    weight = load_network(artifact).state_dict()["conv.weight"]
    assert bool((weight.movedim(1, -1).reshape(-1, 4).count_nonzero(dim=1) == 2).all())
    assert [*sparse_names(artifact)] == ["conv.weight", "fc.weight"]


def test_patterns_that_a_method_does_not_know_are_refused() -> None:
    """Before anything runs, with what is allowed."""
    with pytest.raises(ValidationError, match="found pattern 1x4 with method obs, allowed: N:M, or none"):
        sparsify(method="obs", pattern="1x4", density=0.5)
    with pytest.raises(ValidationError, match="found pattern 2:4 with method block_fisher, allowed: none"):
        sparsify(method="block_fisher", pattern="2:4")


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_is_refused(method: str) -> None:
    """These methods work at once."""
    with pytest.raises(ValidationError, match=f"found schedule with method {method}, which works at once"):
        sparsify(method=method, density=0.5, schedule={"epochs": 1})


def test_more_images_than_there_are_is_refused(run_stage: Run, network: Artifact) -> None:
    """With the number that there is."""
    with pytest.raises(InputError, match="the training split has 40"):
        run_stage(sparsify(method="obs", density=0.5, images=41), network, "sparse")
