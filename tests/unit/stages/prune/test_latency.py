"""Pruning to a latency from end to end, with a timer that has no clock: what ships takes what the record says."""

from __future__ import annotations

import pytest
import torch

from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.dataset import Arrays, Samples
from pipeline.core.errors import InputError
from pipeline.core.task import Task
from pipeline.network.stored import load_network, write_original
from pipeline.pricing.widths import NoTemplateError
from tests.several import NETWORKS
from tests.unit.pricing.fake_timer import Law
from tests.unit.stages.prune_bench import FILES, Bench, image_network, told
from tests.unit.stages.stops import Stops
from tests.unit.stages.test_several import AnyKit

#: What the widths of so small a network can meet.
FINE = {"target": {"latency": "0.75x"}, "floor": 0.5}


def test_the_file_that_ships_takes_what_was_asked_for(bench: Bench) -> None:
    """Certified, with its moves, and exported it takes between 0.97 and 1.00 of the target."""
    given = image_network(bench.folder / "network")
    outcome = bench.run(given, "pruned", **FINE)
    found = told(outcome)
    assert found.met
    assert 0.97 * 0.75 <= found.ratio.value <= 0.75
    assert bench.share(given, "pruned") == pytest.approx(found.ratio.value)
    assert outcome.changed["certificate"]["max_error"] <= 1e-4 * outcome.changed["certificate"]["scale"]
    assert found.model.trusted
    again = 1  # what meets the target is measured twice
    assert found.model.probes == bench.timers[0].measured - len(found.corrections) - again - len(found.moves)
    assert found.floor.factor < 0.75
    assert {move.name for move in found.moves} == {*outcome.changed["widths"], *outcome.changed.get("removed", [])}
    assert all(move.bought.startswith("less time in ") for move in found.moves)
    assert found.whole_float_ms == found.whole_ms


def test_the_float_file_of_the_recipes_own_network_is_timed_too(bench: Bench) -> None:
    """Where another precision ships: budgets count from it. Its nodes are fewer, by which the made-up law goes."""
    found = told(bench.run(image_network(bench.folder / "network"), "pruned", precision="int8", **FINE))
    assert found.precision.startswith("int8")
    assert found.whole_float_ms
    assert found.whole_float_ms.value < 0.95 * found.whole_ms.value


ITERATIVE = {"schedule": {"method": "iterative", "steps": 2, "epochs": 1, "batch": 8}, **FINE}


def test_a_run_that_was_killed_anywhere_ends_in_the_same_bytes(bench: Bench) -> None:
    """Two steps with training; probes and phases that were finished are not made again."""
    given = image_network(bench.folder / "network")
    for after in (4, 16):
        with pytest.raises(KeyboardInterrupt):
            bench.run(given, "killed", Stops(after), **ITERATIVE)
    resumed = bench.run(given, "killed", **ITERATIVE)
    bench.fresh_cache("other")
    bench.run(given, "whole", **ITERATIVE)
    assert resumed.changed["latency"]["met"]
    for file in FILES:
        assert (bench.folder / "killed" / file).read_bytes() == (bench.folder / "whole" / file).read_bytes()
    assert len(resumed.changed["steps"]) == 2


@pytest.mark.parametrize("method", ["layerwise", "soft"])
def test_schedules_of_widths(bench: Bench, method: str) -> None:
    """They move channels alone, chosen before any training, to the target."""
    given = image_network(bench.folder / "network")
    outcome = bench.run(given, method, schedule={"method": method, "epochs": 1, "batch": 8}, **FINE)
    assert {move.kind for move in told(outcome).moves} == {"channels"}
    assert bench.share(given, method) == pytest.approx(told(outcome).ratio.value)
    assert told(outcome).met


def test_blocks_alone(bench: Bench) -> None:
    """One block is all there is: what is nearest is told, and keep can hold it back."""
    given = image_network(bench.folder / "network")
    outcome = bench.run(given, "blocks", moves=["blocks"])
    found = told(outcome)
    assert outcome.changed["removed"] == ["block"]
    assert outcome.changed["blocks"] == {"before": 1, "after": 0}
    assert outcome.changed["widths"] == {}
    assert not found.met
    assert found.nearest is not None
    assert found.nearest.below == found.ratio.value < 0.6
    assert [(move.kind, move.name) for move in found.moves] == [("block", "block")]
    for number, keep in enumerate(("block*", "block")):  # the second is the block's own name, and no layer's
        with pytest.raises(InputError, match=r"of the moves blocks none is left with these keep, floor and align"):
            bench.run(given, f"kept{number}", moves=["blocks"], keep=[keep])


@pytest.mark.parametrize("moves", [["heads"], ["channels", "heads"]])
def test_heads_are_moves_of_their_own(bench: Bench, moves: list[str]) -> None:
    """Alone they leave channels as they are."""
    given = image_network(bench.folder / "network", "Attention")
    target = {"latency": "0.8x"}
    outcome = bench.run(given, "heads", moves=moves, target=target)
    kinds = {move.name: move.kind for move in told(outcome).moves}
    assert all((kind == "heads") == (name == "qkv" and "heads" in moves) for name, kind in kinds.items())
    if moves == ["heads"]:
        assert set(outcome.changed["widths"]) == {"qkv"}
        assert outcome.changed["widths"]["qkv"]["before"] == 4


@pytest.mark.parametrize("allocation", ["uniform"])
def test_other_allocations_reach_the_time_too(bench: Bench, allocation: str) -> None:
    """The controls that a choice by damage is compared with; files are of the target's batch."""
    given = image_network(bench.folder / "network")
    outcome = bench.run(given, allocation, allocation=allocation, batch=4)
    found = told(outcome)
    assert found.ratio.value <= 0.6
    assert {move.kind for move in found.moves} == {"channels"}
    assert not found.undone
    assert "damage" not in outcome.changed


def test_a_network_without_blocks_or_template(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real files are timed and channels alone leave, which is said."""

    def none(*_: object) -> None:
        raise NoTemplateError("sizes cannot be told apart")

    progress = Stops(10_000)
    monkeypatch.setattr("pipeline.pricing.opening.infer_template", none)
    outcome = bench.run(image_network(bench.folder / "network"), "pruned", progress)
    found = told(outcome)
    assert found.ratio.value <= 0.6
    assert not found.model.trusted
    assert not found.layers
    assert {move.kind for move in found.moves} == {"channels"}
    assert any("real files are timed" in note and "sizes cannot be told apart" in note for note in progress.notes)


def test_moves_are_measured_where_the_model_is_too_far_off(bench: Bench) -> None:
    """Layers whose time doubles with every second width, which no product of sizes does."""
    bench.use(Law(granule=2, cliff=2.0))
    progress = Stops(10_000)
    given = image_network(bench.folder / "network")
    outcome = bench.run(given, "pruned", progress)
    found = told(outcome)
    assert not found.model.trusted
    assert found.ratio.value <= 0.6
    assert bench.share(given, "pruned") == pytest.approx(found.ratio.value)
    assert any("measured one by one" in note for note in progress.notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": {"latency": "0.1x"}}, r"0\.1x of .* cannot be reached .*overhead.*Ask for 0\.\d+x or more"),
        ({"target": {"latency": "30s"}}, r"takes 0\.\d+ ms already, found 30000ms, allowed: less"),
        ({"keep": ["*"]}, r"none is left with these keep"),
        ({"images": 41}, r"images is 41, the training split has 40"),
    ],
)
def test_what_cannot_be_reached_is_refused_before_any_training(
    bench: Bench, settings: dict[str, object], said: str
) -> None:
    """With the floor, what sets it, and what could be asked for."""
    with pytest.raises(InputError, match=said):
        bench.run(image_network(bench.folder / "network"), "refused", **{**ITERATIVE, **settings})
    assert not (bench.folder / "refused" / "phases" / "000").exists()


def test_a_target_next_to_the_floor_is_measured(bench: Bench) -> None:
    """What is aimed at lies a little below the target, and below the floor: the fastest state is tried."""
    given = image_network(bench.folder / "network")
    with pytest.raises(InputError) as refused:
        bench.run(given, "refused", target={"latency": "0.1x"})
    least = float(str(refused.value).split("about ")[1].split("x")[0])
    outcome = bench.run(given, "pruned", target={"latency": f"{least + 0.002:.3f}x"})
    assert told(outcome).ratio.value <= least + 0.01


def test_several_inputs_and_outputs_and_no_classes(bench: Bench) -> None:
    """An image and numbers to two answers, whose loss is that of a user's kit; nothing in it is residual."""
    bench.use(Law(granule=1, value=2e-4))
    case = NETWORKS["image and numbers"]
    feeds = case.feeds(40)
    split = Samples(feeds, [0.5] * 40)
    bench.task = Task(AnyKit(), Arrays("made up", split, split, split))  # type: ignore[arg-type]
    folder, definition = bench.folder / "torch", bench.folder / "several.py"
    folder.mkdir()
    definition.write_text(
        "from tests.several import NETWORKS\n\n\ndef build():\n    return NETWORKS['image and numbers'].model()\n"
    )
    write_original(folder, case.model(), definition, {}, case.specs(1), reads=True)
    outputs = tuple(TensorSpec(name=name, shape=()) for name in case.outputs)
    given = Artifact(form="torch", folder=folder, digest="0" * 64, inputs=case.specs(1), outputs=outputs)
    outcome = bench.run(given, "pruned", target={"latency": "0.8x"}, moves=["channels"])
    assert told(outcome).ratio.value <= 0.8
    assert bench.share(given, "pruned") == pytest.approx(told(outcome).ratio.value)
    network = load_network(given.model_copy(update={"folder": bench.folder / "pruned"}))
    answers = network(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5))
    assert {name: tuple(each.shape) for name, each in answers.items()} == {"scores": (2, 4), "place": (2, 2)}
