"""Fine-tuning that compares layers with the teacher's: matched channels, resumed runs, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.compress.training.hints import feature_loss, recorded_maps
from pipeline.core.artifact import payload_digest
from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.network.stored import load_network
from pipeline.network.training import make_training
from pipeline.network.training_config import Distill, TrainingConfig
from pipeline.stages.finetune import Finetune
from pipeline.stages.prune import Prune
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context, Outcome

    Run = Callable[..., tuple[Artifact, Outcome]]
    Make = Callable[..., Context]


def finetune(**distill: object) -> Finetune:
    """Return a short training that learns from the original."""
    settings = {"kind": "finetune", "epochs": 2, "batch": 8, "optimizer": "sgd", "learning_rate": 0.01}
    return Finetune.model_validate({**settings, "distill": {"from": "original", **distill}})


def pruned(run_stage: Run, network: Artifact) -> Artifact:
    """Return the network with fewer channels, removed in two steps."""
    once, _ = run_stage(Prune.model_validate({"kind": "prune", "ratio": 0.25, "align": 1}), network, "once")
    twice, _ = run_stage(Prune.model_validate({"kind": "prune", "ratio": 0.5, "align": 1}), once, "twice")
    return twice


def test_channels_are_matched_through_the_plan(run_stage: Run, make_context: Make, network: Artifact) -> None:
    """A norm behind the first layer gives for each kept channel what the original does: its feature loss is zero."""
    given, context = pruned(run_stage, network), make_context("match")
    model = load_network(given)
    training = make_training(finetune(features=["bn"]), model, context, given=given, seed=0)
    assert training.distillation
    assert training.distillation.hints
    kept = training.distillation.hints.features["bn"]
    assert len(kept) == 3
    images = torch.randn(4, 1, 8, 8)
    teacher = load_network(network)
    with torch.no_grad(), recorded_maps(model.eval(), ("bn",)) as own, recorded_maps(teacher, ("bn",)) as other:
        model(images)
        teacher(images)
    assert float(feature_loss(own["bn"], other["bn"], kept)) == pytest.approx(0, abs=1e-10)
    assert float(feature_loss(own["bn"], other["bn"], kept.flip(0))) > 0.01


def test_both_change_the_training_and_a_killed_one_resumes(
    run_stage: Run, make_context: Make, network: Artifact
) -> None:
    """Each term leads to other weights; stopped after an epoch, the training ends with the same bytes."""
    given = pruned(run_stage, network)
    settings: dict[str, dict[str, Any]] = {
        "logits": {},
        "features": {"features": "auto"},
        "attention": {"attention": ["conv"], "attention_weight": 4},
    }
    digests = {name: run_stage(finetune(**each), given, name)[0].digest for name, each in settings.items()}
    assert len({*digests.values()}) == 3
    context, stops = make_context("killed"), Stops(8)  # an epoch has five steps
    killed = replace(context, progress=stops)
    with pytest.raises(KeyboardInterrupt):
        finetune(features="auto").run(given, killed)
    assert stops.notes == ["distillation compares features of conv"]
    finetune(features="auto").run(given, replace(context, progress=SilentProgress()))
    assert payload_digest("torch", context.folder) == digests["features"]


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"features": ["stage9"]}, "the network that is trained has no layer stage9 .* allowed: stem, bn, conv"),
        ({"attention": ["fc"]}, "no layer fc that it calls once for each sample with maps"),
    ],
)
def test_layers_that_are_not_there_are_refused(
    run_stage: Run, network: Artifact, distill: dict[str, Any], said: str
) -> None:
    """By name, with those that there are."""
    with pytest.raises(InputError, match=said):
        run_stage(finetune(**distill), network, "refused")


@pytest.mark.parametrize(
    ("distill", "said"),
    [
        ({"feature_weight": 2}, "found feature_weight without features"),
        ({"attention_weight": 2}, "found attention_weight without attention"),
        ({"features": []}, "at least 1"),
        ({"features": "all"}, "features"),
    ],
)
def test_keys_that_would_change_nothing_are_refused(distill: dict[str, Any], said: str) -> None:
    """A weight needs its layers."""
    with pytest.raises(ValidationError, match=said):
        Distill.model_validate(distill)


def test_a_teacher_of_its_own_has_no_matching_channels(tmp_path: Path) -> None:
    """Nor layers that could be chosen for both."""
    for name in ("model.py", "weights.pt"):
        (tmp_path / name).write_text("")
    teacher = {"definition": tmp_path / "model.py", "weights": tmp_path / "weights.pt"}
    with pytest.raises(ValidationError, match="found features with a teacher of its own definition"):
        Distill.model_validate({"from": teacher, "features": ["a"]})
    with pytest.raises(ValidationError, match="found attention: auto with a teacher"):
        Distill.model_validate({"from": teacher, "attention": "auto"})
    assert Distill.model_validate({"from": teacher, "attention": ["a"]}).attention == ("a",)


def test_quantization_aware_training_compares_outputs_alone() -> None:
    """It trains an exported graph."""
    with pytest.raises(ValidationError, match="the exported graph is trained, which has no layers"):
        QuantizeAwareFinetune.model_validate(
            {"kind": "quantize-aware-finetune", "epochs": 1, "distill": {"attention": "auto"}}
        )


def test_configurations_without_layers_are_what_they_were() -> None:
    """So that results in a store are found again."""
    config = TrainingConfig.model_validate({"epochs": 1, "distill": {}})
    assert set(config.model_dump()["distill"]) == {"source", "temperature", "alpha"}
