"""Nodes that go back to float, and accuracy that is brought back: in which order, how far, and what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.analysis.noise import own_layer_sqnr
from pipeline.core.errors import InputError, StageError
from pipeline.precision import in_float as module
from pipeline.precision.in_float import MOST_LAYERS, TRIAL_IMAGES
from pipeline.precision.search import FAMILIES, LAYERS
from pipeline.precision.variant import LADDER, Variant
from tests.unit.precision.search_fixtures import BUDGET_S, SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.precision.problem import SearchResult
    from pipeline.results.precision import LayerChoice
    from tests.unit.precision.search_fixtures import What, World


def in_float(what: What) -> frozenset[str]:
    """Return the nodes that a candidate has in float on purpose."""
    return frozenset(what.in_float if isinstance(what, Variant) else ())


def faster_by(gains: dict[str, float]) -> Callable[[What], float]:
    """Return speeds of 2, multiplied for each node in float."""

    def speed(what: What) -> float:
        factor = 1.0
        for node in in_float(what):
            factor *= gains.get(node, 1.0)
        return 1.0 if what == "float" else (2.0 if isinstance(what, Variant) else 1.2) * factor

    return speed


def recovery(what: What) -> tuple[str, ...]:
    """Return the steps that were taken to bring accuracy back."""
    return what.recovery if isinstance(what, Variant) else ()


def choices(found: SearchResult) -> dict[str, LayerChoice]:
    """Return what was tried in float, by name."""
    return {choice.name: choice for choice in found.layers}


def test_families_that_are_faster_in_float_stay_there(world: World) -> None:
    """Those whose interval says so, and all of them together when that is faster still."""
    world.speed = faster_by({"dw": 1.2, "add": 1.05, "stem": 0.9})
    found = world.find()
    assert found.chosen.label == "onnxruntime, u8s8, percentile, in float: depthwise Conv and every Add"
    assert set(found.chosen.in_float) == {"dw", "add"}
    assert world.rows(found)[found.chosen.label].precision == "mixed"
    tried = choices(found)
    assert {name: choice.nodes for name, choice in tried.items()} == {
        "first Conv": ("stem",),
        "depthwise Conv": ("dw",),
        "small Conv": ("point",),
        "every Add": ("add",),
        "every Gemm": ("fc",),
    }
    assert {name for name, choice in tried.items() if choice.left_in_float} == {"depthwise Conv", "every Add"}
    assert tried["depthwise Conv"].reason == "faster in float"
    assert tried["first Conv"].reason == "slower in float"
    assert tried["small Conv"].reason == "no difference shown"
    assert tried["depthwise Conv"].speedup is not None
    assert tried["depthwise Conv"].speedup.value == pytest.approx(1.2)


def test_a_family_alone_may_be_better_than_with_others(world: World) -> None:
    """What gains alone can cost together: conversions between."""
    together = frozenset({"dw", "add"})
    world.speed = lambda what: (
        {together: 2.0, frozenset({"dw"}): 2.4, frozenset({"add"}): 2.2}.get(in_float(what), 2.0)
        if what != "float"
        else 1.0
    )
    found = world.find()
    assert found.chosen.in_float == ("dw",)
    assert not choices(found)["every Add"].left_in_float
    assert choices(found)["every Add"].reason == "faster in float"


def test_trials_see_few_images_and_what_may_ship_all(world: World) -> None:
    """A file's speed does not depend on its scales."""
    world.speed = faster_by({"dw": 1.2, "add": 1.05})
    found = world.find()
    mixed = [(set(variant.in_float), images) for variant, images in world.made if variant.in_float]
    assert [images for _, images in mixed] == [TRIAL_IMAGES] * 6 + [len(SAMPLES)]
    assert mixed[-1][0] == {"dw", "add"}
    together, apart = ([budget for _, budget in world.timed].count(share * BUDGET_S) for share in FAMILIES)
    assert (together, apart) == (1, 1)
    assert found.chosen.variant in world.timed[-1][0]


def test_a_gain_within_the_noise_leaves_nothing_in_float(world: World) -> None:
    """The interval has to lie above one."""
    world.speed = faster_by({"dw": 1.2})
    world.spread = 0.25
    found = world.find()
    assert found.chosen.in_float == ()
    assert not any(choice.left_in_float for choice in found.layers)
    assert {choice.reason for choice in found.layers} == {"no difference shown"}


def test_a_family_that_cannot_be_left_in_float_says_why(world: World) -> None:
    """Nor one that the device's runtime refuses so."""
    world.error = lambda variant: StageError("loses its shape") if variant.in_float == ("dw",) else None
    world.refused = lambda what: "no such kernel" if in_float(what) == {"add"} else ""
    found = world.find()
    assert (choices(found)["depthwise Conv"].reason, choices(found)["depthwise Conv"].speedup) == (
        "loses its shape",
        None,
    )
    assert choices(found)["every Add"].reason == "no such kernel"
    assert choices(found)["every Gemm"].reason == "no difference shown"


def test_a_mixed_file_that_fails_with_all_images_has_a_row(world: World) -> None:
    """And what it was made of ships."""
    world.speed = faster_by({"dw": 1.2})
    world.error = lambda variant: InputError("no") if variant.in_float and len(world.made) > 10 else None
    found = world.find()
    row = world.rows(found)["onnxruntime, u8s8, percentile, in float: depthwise Conv"]
    assert (row.state, row.reason) == ("dropped", "no")
    assert found.chosen.label == "onnxruntime, u8s8, percentile"


def test_names_of_nodes_are_no_patterns(world: World) -> None:
    """A name with brackets leaves its own node in float and no other."""
    names = ("conv[0]", "relu", "conv*", "conv", "add", "mean", "fc")
    world.speed = faster_by({"conv[0]": 1.2, "conv*": 1.2})
    found = world.find(names=names)
    assert set(found.chosen.in_float) == {"conv[0]", "conv*"}
    assert "conv" in found.chosen.on_integers


def right_with(*wanted: tuple[str, ...]) -> Callable[[What], float]:
    """Return accuracies that are right with these steps, and of what is no int8."""
    return lambda what: 0.9 if what == "float" or recovery(what) in wanted else 0.8


@pytest.mark.parametrize("place", range(len(LADDER)))
def test_recovery_ends_with_the_first_step_that_is_right(world: World, place: int) -> None:
    """Bias correction, equalization with it, adaptive rounding with it."""
    world.accuracy = right_with(*LADDER[place:])
    found = world.find()
    assert recovery(found.chosen.variant or "none") == LADDER[place]
    assert [row.recovery for row in world.plan(found).candidates if row.recovery] == list(LADDER[: place + 1])
    assert not [choice for choice in found.layers if choice.decibels_gained is not None]
    assert LADDER == (("bias",), ("equalize", "bias"), ("adaround", "bias"))


def test_recovery_starts_from_the_fastest_file_with_what_it_has_in_float(world: World) -> None:
    """Its families stay where they are."""
    world.speed = faster_by({"dw": 1.2})
    world.accuracy = right_with(("bias",))
    found = world.find()
    assert (found.chosen.in_float, recovery(found.chosen.variant or "none")) == (("dw",), ("bias",))
    assert found.chosen.label == "onnxruntime, u8s8, percentile, in float: depthwise Conv, bias"


def test_a_step_that_cannot_be_taken_has_a_row(world: World) -> None:
    """The next one is tried."""
    world.error = lambda variant: InputError("nothing to equalize") if "equalize" in variant.recovery else None
    world.accuracy = right_with(("adaround", "bias"))
    found = world.find()
    rows = world.rows(found)
    assert rows["onnxruntime, u8s8, percentile, equalize, bias"].reason == "nothing to equalize"
    assert recovery(found.chosen.variant or "none") == ("adaround", "bias")


@pytest.mark.parametrize("reason", ["right", "as fast", "slower"])
def test_nothing_is_recovered_without_need(world: World, reason: str) -> None:
    """The fastest is right, something right is as fast, or the file would not be worth it."""
    if reason == "as fast":
        world.accuracy = lambda what: 0.8 if isinstance(what, Variant) else 0.9
    elif reason == "slower":
        world.speed = lambda what: 1.0 if what == "float" else 0.7
        world.accuracy = lambda what: 0.9 if what == "float" else 0.8
    found = world.find()
    assert not any(row.recovery for row in world.plan(found).candidates)


def test_single_layers_go_back_by_what_they_gain_for_a_millisecond(world: World) -> None:
    """Most decibels for their time first; it ends with the first file that is right, which is timed."""
    cost = {"stem": 0.5, "dw": 0.98, "point": 0.9, "fc": 0.8}
    gain = {"stem": 9.0, "dw": 1.0, "point": 4.0, "fc": -1.0}
    world.speed = faster_by(cost)
    world.decibels = lambda what: 20 + sum(gain.get(node, 0) for node in in_float(what)) + len(recovery(what))
    world.accuracy = lambda what: 0.9 if what == "float" or in_float(what) >= {"dw", "point"} else 0.8
    found = world.find()
    added = [row.float_nodes for row in world.plan(found).candidates if row.float_nodes]
    assert added == [("dw",), ("dw", "point")]
    assert found.chosen.in_float == ("dw", "point")
    assert recovery(found.chosen.variant or "none") == ("equalize", "bias")
    tried = {choice.name: choice for choice in found.layers if choice.decibels_gained is not None}
    assert {name: choice.decibels_gained for name, choice in tried.items() if name in gain} == gain
    assert {name for name, choice in tried.items() if choice.left_in_float} == {"dw", "point"}
    assert tried["dw"].reason == "brought accuracy back"
    assert tried["stem"].reason == "reduces noise"
    assert tried["fc"].reason == "does not reduce noise"
    assert LAYERS[1] * BUDGET_S in [budget for _, budget in world.timed]
    assert len(tried) <= MOST_LAYERS


def test_layers_are_compared_with_a_file_that_was_calibrated_alike(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On few images, without the steps that take long; and ordered by their noise in a file without them."""
    seen: list[What] = []

    def noise(float_file: Path, file: Path, samples: NDArray[np.float32]) -> dict[str, float]:
        seen.append(world.is_what(file))
        return own_layer_sqnr(float_file, file, samples)

    monkeypatch.setattr(module, "own_layer_sqnr", noise)
    world.decibels = lambda what: 30.0 + len(recovery(what))
    world.accuracy = lambda what: 0.9 if what == "float" else 0.8
    world.find()
    assert [recovery(what) for what in seen] == [()]
    alone = [(variant, images) for variant, images in world.made if images == TRIAL_IMAGES]
    assert (Variant("onnxruntime", alone[0][0].request), TRIAL_IMAGES) in alone
    assert not any(variant.recovery for variant, _ in alone)


def test_when_no_layer_helps_the_float_file_ships(world: World) -> None:
    """All that could take noise away are tried one after the other."""
    gain = {"stem": 2.0, "dw": 1.0}
    world.decibels = lambda what: 20 + sum(gain.get(node, -1) for node in in_float(what))
    world.accuracy = lambda what: 0.9 if what == "float" else 0.8
    found = world.find()
    assert found.chosen.label == "FP32"
    assert [row.float_nodes for row in world.plan(found).candidates if row.float_nodes] == [("stem",), ("stem", "dw")]
    assert not any(choice.left_in_float for choice in found.layers)


def test_a_layer_that_cannot_be_left_in_float_says_why(world: World) -> None:
    """The others are still compared."""
    world.accuracy = lambda what: 0.9 if what == "float" else 0.8
    world.error = lambda variant: StageError("no shape") if variant.in_float == ("point",) else None
    found = world.find()
    (point,) = [choice for choice in found.layers if choice.name == "point"]
    assert (point.reason, point.speedup) == ("no shape", None)
    assert any(choice.decibels_gained is not None for choice in found.layers)
