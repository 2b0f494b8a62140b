"""Finetune trains, penalises channels where asked, resumes, and says what it did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError

from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.core.runtimes import FORMS
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, write_original
from pipeline.stages.finetune import Finetune
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Context, Outcome, SilentProgress

    Run = Callable[..., tuple[Artifact, Outcome]]
    Make = Callable[..., Context]


def finetune(**settings: object) -> Finetune:
    """Return a stage with a short training."""
    return Finetune.model_validate(
        {"kind": "finetune", "epochs": 2, "batch": 8, "optimizer": "sgd", "learning_rate": 0.01, **settings}
    )


def test_it_says_what_the_epochs_did(run_stage: Run, network: Artifact) -> None:
    """One line for each epoch, and which of them was kept."""
    artifact, outcome = run_stage(finetune(), network, "trained")
    history = json.loads(json.dumps(outcome.changed))["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    best = max(history, key=lambda epoch: (epoch["validation_accuracy"], -epoch["validation_loss"]))
    assert outcome.changed["best_epoch"] == best["epoch"]
    assert "near_zero" not in outcome.changed
    before, after = load_network(network).state_dict(), load_network(artifact).state_dict()
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    assert sorted(path.name for path in artifact.folder.iterdir()) == sorted(FORMS["torch"].files)


METHODS: dict[str, dict[str, Any]] = {
    "group_lasso": {"method": "group_lasso", "strength": 3.0},
    "group_norm": {"method": "group_norm", "strength": 0.5},
    "growing_l2": {"method": "growing_l2", "strength": 1.0, "every": 1, "ceiling": 30, "align": 2},
}


@pytest.mark.parametrize("method", METHODS)
def test_penalties_leave_channels_near_zero(run_stage: Run, network: Artifact, method: str) -> None:
    """Without a penalty no channel is near zero, with one some are; the last epoch is kept."""
    stage = finetune(epochs=8, warmup=0, learning_rate=0.05, momentum=0, regularise=METHODS[method])
    artifact, outcome = run_stage(stage, network, "pushed")
    found = outcome.changed["near_zero"]
    assert found["of"] == 8
    assert 1 <= found["channels"] < 8
    assert outcome.changed["best_epoch"] == 8
    plain: Any = load_network(network)
    pushed: Any = load_network(artifact)
    before, after = (each.stem.weight.flatten(1).norm(dim=1).detach() for each in (plain, pushed))
    assert float(after.min() / after.max()) < 0.01 < float(before.min() / before.max())


def test_batch_norm_scales_get_smaller(run_stage: Run, network: Artifact) -> None:
    """The sum of absolute scales falls against the same training without the penalty."""
    sums = []
    for name, penalty in (("plain", None), ("pushed", {"method": "bn_scale", "strength": 0.5})):
        artifact, _ = run_stage(finetune(regularise=penalty), network, name)
        trained: Any = load_network(artifact)
        sums.append(float(trained.bn.weight.detach().abs().sum()))
    assert sums[1] < 0.9 * sums[0]


def test_growing_decay_pushes_what_is_smallest_now(run_stage: Run, network: Artifact) -> None:
    """Half of the channels, those of the smallest norm before the training, on the grid of the pruning."""
    stage = finetune(epochs=8, warmup=0, learning_rate=0.05, momentum=0, regularise=METHODS["growing_l2"])
    artifact, outcome = run_stage(stage, network, "pushed")
    trained: Any = load_network(artifact)
    norms = trained.stem.weight.flatten(1).norm(dim=1)
    assert int((norms < 0.01 * norms.max()).sum()) == 4
    assert outcome.changed["near_zero"]["channels"] == 4


@pytest.mark.parametrize("penalty", [None, METHODS["group_lasso"], METHODS["growing_l2"]])
def test_a_killed_training_ends_with_the_same_bytes(
    make_context: Make, network: Artifact, penalty: dict[str, Any] | None
) -> None:
    """What had been pushed goes on being pushed."""
    stage = finetune(epochs=3, ema=0.5, regularise=penalty)
    whole, killed = make_context("whole"), make_context("killed")
    outcome = stage.run(network, whole)
    stops = Stops(8)  # an epoch has five steps
    with pytest.raises(KeyboardInterrupt):
        stage.run(network, replaced(killed, stops))
    assert (killed.folder / "training.pt").exists()
    last = Stops(1000)
    assert stage.run(network, replaced(killed, last)).changed == outcome.changed
    assert last.notes == ["resumed after epoch 1 of 3"]
    for name in FORMS["torch"].files:
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_what_a_resumed_training_says(make_context: Make, network: Artifact) -> None:
    """Another number of threads adds in another order; a state that cannot be read is made anew."""
    stage, context = finetune(epochs=2), make_context("ended")
    stops = Stops(8)
    with pytest.raises(KeyboardInterrupt):
        stage.run(network, replaced(context, stops))
    file = context.folder / "training.pt"
    torch.save({**torch.load(file), "threads": 99}, file)
    more = Stops(1000)
    stage.run(network, replaced(context, more))
    assert more.notes[1].startswith("it began on 99 threads and continues on ")
    assert more.notes[1].endswith("OMP_NUM_THREADS=99")
    for content in (b"", b"PK\3\4", bytes(1000)):
        file.write_bytes(content)
        again = Stops(1000)
        stage.run(network, replaced(context, again))
        assert "this training starts over" in again.notes[0]


def replaced(context: Context, progress: SilentProgress) -> Context:
    """Return the context with another progress."""
    return type(context)(**{**vars(context), "progress": progress})


def test_a_network_without_channels_to_penalise(run_stage: Run, network: Artifact, tmp_path: Path) -> None:
    """A penalty on nothing is an error that lists the reasons."""
    (tmp_path / "flat.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    (tmp_path / "flat").mkdir()
    write_original(tmp_path / "flat", build_network(tmp_path / "flat.py", {}), tmp_path / "flat.py", {})
    inputs = (TensorSpec(name="input", shape=(-1, 1, 8, 8)),)
    given = network.model_copy(update={"folder": tmp_path / "flat", "inputs": inputs})
    with pytest.raises(InputError, match=r"regularise: no channel of this network can be removed.*1: output"):
        run_stage(finetune(regularise={"method": "group_lasso"}), given, "trained")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"regularise": {}},
        {"regularise": {"method": "l0"}},
        {"regularise": {"method": "bn_scale", "strength": 0}},
        {"distill": {"temperature": 0}},
        {"steps": 3},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    """Unknown keys and values that mean nothing are errors."""
    with pytest.raises(ValidationError):
        finetune(**wrong)


def test_scratch_starts_from_new_weights(run_stage: Run, network: Artifact) -> None:
    """A control: the same by seed, another than the one that starts from the weights, and refused after share."""
    one, two = (run_stage(finetune(weights="scratch"), network, name, seed=3)[0] for name in ("one", "two"))
    kept, _ = run_stage(finetune(), network, "kept", seed=3)
    assert one.digest == two.digest != kept.digest
    assert "weights" not in finetune().model_dump()
    assert finetune(weights="scratch").parts_clusters == ("weights", "found scratch, allowed after share: given")
