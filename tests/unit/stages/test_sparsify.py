"""The sparsify stage: what it makes, what later stages make of it, resumption, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.analysis.stored_weights import onnx_weights
from pipeline.core.errors import InputError
from pipeline.core.runtimes import FORMS
from pipeline.core.sparsity import lost_zeros, zeros_among
from pipeline.core.stage import Target
from pipeline.network.masks import masks_of, sparse_names
from pipeline.network.stored import load_network
from pipeline.recipe import chain_problems
from pipeline.stages.export import Export
from pipeline.stages.factorize import Factorize
from pipeline.stages.finetune import Finetune
from pipeline.stages.prune import Prune
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from pipeline.stages.sparsify import Sparsify
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context, Outcome
    from pipeline.stages import AnyStage

    Run = Callable[..., tuple[Artifact, Outcome]]
    Make = Callable[..., Context]

NAMES = ("stem.weight", "conv.weight", "fc.weight")
TRAINING = {"epochs": 3, "batch": 8, "optimizer": "sgd", "learning_rate": 0.05, "warmup": 0}


def stage(**settings: Any) -> Sparsify:  # noqa: ANN401 - any setting of a recipe
    """Return the stage, with a density of a half unless another is given."""
    given = {} if ":" in str(settings.get("pattern", "")) else {"density": 0.5}
    return Sparsify.model_validate({"kind": "sparsify", **given, **settings})


def kept(artifact: Artifact) -> list[int]:
    """Return how many weights of stem (72), conv (576) and fc (24) are not zero."""
    return [int(mask.sum()) for mask in masks_of(load_network(artifact), NAMES).values()]


def test_weights_become_zero_and_the_others_stay(run_stage: Run, network: Artifact) -> None:
    """The smallest of each layer; its parameters are named."""
    made, outcome = run_stage(stage(density=0.25), network, "sparse")
    assert kept(made) == [18, 144, 6]
    assert sparse_names(made) == tuple(sorted(NAMES))
    assert outcome.changed["density"] == {"before": 1.0, "after": 0.25}
    before, after = (load_network(each).get_parameter("conv.weight").detach() for each in (network, made))
    assert torch.equal(after[after != 0], before[after != 0])
    assert float(before[after == 0].abs().max()) <= float(after[after != 0].abs().min())


def test_keep_patterns_scopes_and_the_control(run_stage: Run, network: Artifact) -> None:
    """A layer that is kept has no name among the sparse ones; 2:4 and 1x4 where channels divide."""
    made, _ = run_stage(stage(keep=["stem", "fc*"], method="random"), network, "kept")
    assert sparse_names(made) == ("conv.weight",)
    assert kept(made) == [72, 288, 24]
    made, _ = run_stage(stage(pattern="2:4", keep=["stem"]), network, "pattern")
    weight = load_network(made).get_parameter("conv.weight")
    assert bool(((weight.reshape(8, 2, 4, 9) != 0).sum(2) == 2).all())
    made, _ = run_stage(stage(pattern="1x4", keep=["fc"]), network, "blocks")
    blocks = (load_network(made).get_parameter("conv.weight") != 0).reshape(2, 4, 8, 9)
    assert torch.equal(blocks.all(3).all(1), blocks.any(3).any(1))
    made, _ = run_stage(stage(density=0.5, scope="erk"), network, "erk")
    assert kept(made)[0] > 36
    with pytest.raises(InputError, match=r"2:4 needs input channels that are multiples of 4; found stem \(1\)"):
        run_stage(stage(pattern="2:4"), network, "refused")


def test_a_second_time_earlier_zeros_stay(run_stage: Run, network: Artifact) -> None:
    """By chance too, which knows nothing of them; a density that is reached already is refused."""
    first, _ = run_stage(stage(density=0.5), network, "first")
    second, outcome = run_stage(stage(density=0.2, method="random"), first, "second")
    before, after = (masks_of(load_network(each), NAMES) for each in (first, second))
    assert all(bool((before[name] | ~after[name]).all()) for name in NAMES)
    assert outcome.changed["density"]["before"] == 0.5
    with pytest.raises(InputError, match=r"density: found 0\.6, but 0\.5 of the weights are left"):
        run_stage(stage(density=0.6), first, "third")


def test_later_stages_keep_zeros(run_stage: Run, network: Artifact) -> None:
    """Fine-tuning, pruning with training between the removals, and training to int8 are not told of masks."""
    sparse, _ = run_stage(stage(density=0.3), network, "sparse")
    tuned, _ = run_stage(Finetune.model_validate({"kind": "finetune", **TRAINING, "ema": 0.5}), sparse, "tuned")
    assert kept(tuned) == kept(sparse)
    assert sparse_names(tuned) == sparse_names(sparse)
    schedule = {**TRAINING, "epochs": 1, "steps": 2}
    prune = Prune.model_validate({"kind": "prune", "ratio": 0.5, "align": 2, "images": 8, "schedule": schedule})
    pruned, _ = run_stage(prune, tuned, "pruned")
    masks = masks_of(load_network(pruned), NAMES)
    assert sparse_names(pruned) == sparse_names(sparse)
    assert masks["conv.weight"].numel() < 576
    assert float(masks["conv.weight"].float().mean()) < 0.6
    export, _ = run_stage(Export.model_validate({"kind": "export", "to": "onnx"}), tuned, "export")
    aware = {"kind": "quantize-aware-finetune", **TRAINING, "epochs": 1, "images": 16}
    int8, _ = run_stage(QuantizeAwareFinetune.model_validate(aware), tuned, "int8")
    before = zeros_among(onnx_weights(export.file))
    assert [int(zeros.sum()) for zeros in before.values()] == [72 - 22, 576 - 173, 24 - 7]
    assert lost_zeros(before, zeros_among(onnx_weights(int8.file))) == {}


def test_dead_channels_are_folded_unless_they_are_kept(run_stage: Run, network: Artifact) -> None:
    """The masks and the density count the zeros; outputs are the same; a network that cannot be followed is told."""
    (plain, before), (made, outcome) = (
        run_stage(stage(density=0.05, dead=dead), network, dead) for dead in ("keep", "fold")
    )
    assert "dead" not in before.changed
    told = json.loads(json.dumps(outcome.changed, allow_nan=False))["dead"]
    assert told["weights"] == sum(kept(plain)) - sum(kept(made)) > 0
    assert sum(told["channels"].values()) > 0
    assert outcome.changed["density"]["after"] == pytest.approx(sum(kept(made)) / 672)
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(load_network(made)(images), load_network(plain)(images))
    odd = network.model_copy(update={"inputs": (network.inputs[0].model_copy(update={"shape": (-1, 1, -1, -1)}),)})
    same, outcome = run_stage(stage(density=0.05), odd, "odd")
    assert "only if inputs have fixed sizes" in outcome.changed["dead"]["left"]
    assert kept(same) == kept(plain)


METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"update": 2},
    "random": {"update": 3},
    "dns": {"gamma": 0.1},
    "rigl": {"update": 4, "exchange": 0.4},
    "movement": {"update": 2},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_ends_at_the_density_and_resumes_to_the_same_bytes(
    network: Artifact, make_context: Make, method: str
) -> None:
    """Killed in the second and the third epoch; what a schedule remembers beside the weights is part of the state."""
    given = stage(method=method, density=0.3, schedule={**TRAINING, "ema": 0.3, "ramp": 0.7, **METHODS[method]})
    whole = make_context("whole")
    changed = given.run(network, whole).changed
    made = network.model_copy(update={"folder": whole.folder})
    assert sum(kept(made)) == pytest.approx(0.3 * 672, abs=2)
    assert changed["density"]["after"] == pytest.approx(0.3, abs=2 / 672)
    assert changed["best_epoch"] == 3
    killed = make_context("killed")
    for reports in (7, 7):  # of five steps an epoch
        object.__setattr__(killed, "progress", Stops(reports))
        with pytest.raises(KeyboardInterrupt):
            given.run(network, killed)
    object.__setattr__(killed, "progress", last := Stops(10_000))
    assert json.loads(json.dumps(given.run(network, killed).changed)) == json.loads(json.dumps(changed))
    assert any("resumed after epoch 2 of 3" in note for note in last.notes)
    for name in ("weights.safetensors", "network.json"):
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert sorted(path.name for path in killed.folder.iterdir()) == [
        "definition.py",
        "network.json",
        "weights.safetensors",
    ]


def test_rounds_cut_and_train_in_turn_and_resume_to_the_same_bytes(network: Artifact, make_context: Make) -> None:
    """Densities fall by the same fraction, and what is dead leaves in the end; killed in a scan and later."""
    schedule = {**TRAINING, "epochs": 2, "shape": "rounds", "rounds": 2, "l1": 1e-3, "tolerance": 0.2}
    given = stage(density=0.04, images=8, batch=4, schedule=schedule)
    whole = make_context("whole")
    changed = json.loads(json.dumps(given.run(network, whole).changed))
    made = network.model_copy(update={"folder": whole.folder})
    freed = changed["dead"]["weights"]
    assert freed > 0
    assert sum(kept(made)) == round(0.04 * 672) - freed
    assert [each["density"] for each in changed["rounds"]] == pytest.approx([0.2, 0.04], abs=2 / 672)
    assert changed["density"]["after"] == pytest.approx(0.04 - freed / 672, abs=1 / 672)
    assert set(changed["qualities"]) == set(NAMES)
    assert {each["best_epoch"] for each in changed["rounds"]} <= {1, 2}
    killed = make_context("killed")
    for reports in (2, 20, 8):
        object.__setattr__(killed, "progress", Stops(reports))
        with pytest.raises(KeyboardInterrupt):
            given.run(network, killed)
    object.__setattr__(killed, "progress", Stops(10_000))
    assert json.loads(json.dumps(given.run(network, killed).changed)) == changed
    for name in FORMS["torch"].files:
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_few_moves_are_told(network: Artifact, make_context: Make) -> None:
    """A ramp of 12 steps has one update of 100 steps."""
    context = make_context("few")
    object.__setattr__(context, "progress", Stops(10_000))
    stage(density=0.5, schedule=TRAINING).run(network, context)
    assert isinstance(context.progress, Stops)
    assert "masks move 1 time in the 12 steps of the ramp: lower schedule.update (now 100)" in context.progress.notes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": None}, "found no density, required"),
        ({"density": 1.0}, "1"),
        ({"density": 0}, "0"),
        ({"pattern": "4:2"}, 'found "4:2", allowed: N:M such as 2:4 with N below M, or 1xN'),
        ({"pattern": "2:4", "density": 0.5}, "found density with pattern 2:4"),
        ({"pattern": "2:4", "scope": "global"}, "found scope global with pattern 2:4"),
        ({"method": "dns"}, "found method dns without schedule"),
        ({"method": "dns", "scope": "erk", "schedule": TRAINING}, "found scope erk with method dns"),
        ({"method": "rigl", "pattern": "1x4", "schedule": TRAINING}, "found pattern 1x4 with method rigl and schedule"),
        ({"pattern": "2:4", "schedule": TRAINING}, "found pattern 2:4 with method magnitude and schedule"),
        ({"schedule": {**TRAINING, "gamma": 1}}, "found schedule.gamma with method magnitude"),
        ({"schedule": {**TRAINING, "rounds": 2}}, "found schedule.rounds with method magnitude and shape agp"),
        (
            {"schedule": {**TRAINING, "shape": "rounds", "ramp": 1}},
            "schedule.ramp with method magnitude and shape ro",
        ),
        ({"method": "random", "schedule": {**TRAINING, "shape": "rounds"}}, "found schedule.shape with method random"),
        ({"scope": "erk", "schedule": {**TRAINING, "shape": "rounds"}}, "found scope erk with schedule.shape rounds"),
        ({"method": "movement", "schedule": {**TRAINING, "exchange": 0.1}}, "schedule.exchange with method movement"),
        ({"schedule": {**TRAINING, "epochs": 0}}, "found 0, allowed: 1 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    """Before anything runs, in words."""
    given = {"density": 0.5} if not str(settings.get("pattern", "")).endswith(":4") else {}
    with pytest.raises(ValidationError, match=message):
        Sparsify.model_validate({"kind": "sparsify", **given, **settings})


def test_low_rank_behind_masks_is_refused() -> None:
    """Its factors are dense; before them it is allowed, and so is removing channels behind them."""
    factorize = Factorize.model_validate({"kind": "factorize", "target": {"macs": 0.5}})
    prune = Prune.model_validate({"kind": "prune", "ratio": 0.5})
    assert list(chain_problems([factorize, stage(), prune])) == []
    (found,) = chain_problems([stage(), factorize])
    assert found[:2] == (1, "kind")
    assert "factorize replaces weights by dense products; the zeros that sparsify makes would be lost" in found[2]


def test_a_plan_says_that_zeros_bring_no_time() -> None:
    """By the runtime that is the target, with the version that was looked at."""
    notes = [stage().remarks([], Target(runtime=runtime)).notes[0] for runtime in ("onnxruntime", "openvino", "torch")]
    assert all("no time" in note for note in notes)
    assert "onnxruntime (1.31) has no kernels" in notes[0]
    assert "AMX" in notes[1]


def test_a_later_stage_that_would_lose_zeros_is_refused() -> None:
    """In the recipe, with the key; without masks before it, it is allowed."""
    aware = QuantizeAwareFinetune.model_validate({"kind": "quantize-aware-finetune", "epochs": 1, "keep_zeros": False})
    stages: list[AnyStage] = [stage(), aware]
    ((index, key, message),) = chain_problems(stages)
    assert (index, key) == (1, "keep_zeros")
    assert "found false, allowed after sparsify: true; the zeros that sparsify makes would be lost" in message
    assert not list(chain_problems(stages[1:]))
