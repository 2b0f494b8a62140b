"""Fine-tuning that compares layers with the teacher's: matched channels, resumed runs, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.compress.training.hints import feature_loss, recorded_maps
from pipeline.core.artifact import Artifact, payload_digest
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError
from pipeline.core.stage import Context, SilentProgress, Stage, Target
from pipeline.data.arrays import image_classifier
from pipeline.network.stored import factored_layers, load_network
from pipeline.network.training import make_training
from pipeline.network.training_config import Distill, TrainingConfig
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.stages import AnyStage
from pipeline.stages.finetune import Finetune
from pipeline.stages.prune import Prune
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from tests.unit.stages.prune_networks import original
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.core.stage import Outcome

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


def bright(images: int, seed: int) -> Split:
    """Return images [N, 1, 6, 6] of two classes that differ by brightness; there is a third."""
    labels = np.arange(images) % 2
    pixels = np.random.default_rng(seed).integers(0, 60, (images, 1, 6, 6)) + 180 * labels[:, None, None, None]
    return Split(pixels.astype(np.uint8), labels)


BRIGHT = Dataset("bright", ("a", "b", "c"), Normalisation((0.5,), (0.25,)), bright(48, 0), bright(30, 1), bright(6, 2))
THIN = {"kind": "prune", "allocation": "rates", "rates": {"stem": 0.4, "last": 0.5, "conv*": 0.4}, "align": 1}
LOW = {"kind": "factorize", "align": 4, "images": 40, "target": {"macs": 0.7}, "method": "channel", "keep": ["out"]}
SHIP = [{"kind": "export", "to": "onnx"}, {"kind": "quantize", "scheme": "u8s8", "images": 40, "on_far": "keep"}]


@pytest.mark.parametrize("before", [[THIN], [LOW], [LOW, THIN]], ids=["pruned", "factorised", "both"])
def test_a_network_that_was_changed_learns_maps_and_ships_in_int8(tmp_path: Path, before: list[dict[str, Any]]) -> None:
    """Written anew, in legs, or both: its maps come nearer to the teacher's than without; its int8 file is right."""
    training = {"kind": "finetune", "epochs": 1, "batch": 4, "learning_rate": 0.01, "warmup": 0}
    plain, hints = {"from": "original", "alpha": 0.1}, {"features": ["conv", "last"], "feature_weight": 4}
    made, told = whole_chain(tmp_path, [*before, {**training, "distill": {**plain, **hints}}, *SHIP])
    assert [each["applied"].split(":")[0] for each in told if "applied" in each] == ["rewritten"] * (THIN in before)
    first, given, hinted = made[0], made[len(before)], made[len(before) + 1]
    assert (factored_layers(hinted) == ("conv",)) == (LOW in before)
    context = bright_context(tmp_path, first, "plain")
    plainly = Finetune.model_validate({**training, "distill": plain})
    plainly.run(given, context)
    unhinted = hinted.model_copy(update={"folder": context.folder})
    losses = [map_loss(each, given, context) for each in (hinted, unhinted)]
    assert losses[0] < 0.8 * losses[1]
    feeds = image_classifier(BRIGHT).feeds("validation", range(30))
    (scores,) = onnx_outputs(made[-1].file, feeds, optimised=True)
    assert np.mean(scores.argmax(1) == BRIGHT.validation.labels) >= 0.9


def map_loss(trained: Artifact, given: Artifact, context: Context) -> float:
    """Return the feature loss of `conv` on validation images, with the channels that `given` has kept."""
    distillation = make_training(
        finetune(features=["conv"]), load_network(given), context, given=given, seed=0
    ).distillation
    assert distillation
    assert distillation.hints
    images = torch.from_numpy(image_classifier(BRIGHT).feeds("validation", range(30))["input"])
    student, teacher = load_network(trained), load_network(context.original)
    with torch.no_grad(), recorded_maps(student, ("conv",)) as own, recorded_maps(teacher, ("conv",)) as other:
        student(images)
        teacher(images)
    return float(feature_loss(own["conv"], other["conv"], distillation.hints.features["conv"]))


def bright_context(folder: Path, first: Artifact, name: str) -> Context:
    """Return a context on the images of `bright`, in a folder of its own."""
    (folder / name).mkdir()
    return Context(folder / name, 0, Target(), first, lambda: image_classifier(BRIGHT))


def whole_chain(folder: Path, stages: list[dict[str, Any]]) -> tuple[list[Artifact], list[dict[str, Any]]]:
    """Return the network whose code states its sizes and what each stage made of it, and what each changed."""
    first, told = original(folder, "Stated"), list[dict[str, Any]]()
    made = [first.model_copy(update={"inputs": (first.inputs[0].model_copy(update={"name": "input"}),)})]
    for number, values in enumerate(stages):
        context = bright_context(folder, made[0], f"{number}")
        outcome = TypeAdapter[Stage](AnyStage).validate_python(values).run(made[-1], context)
        assert outcome.form
        digest = payload_digest(outcome.form, context.folder)
        specs = {"inputs": outcome.inputs, "outputs": outcome.outputs}
        made.append(Artifact(form=outcome.form, folder=context.folder, digest=digest, **specs))
        told.append(dict(outcome.changed))
    return made, told


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
