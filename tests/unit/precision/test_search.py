"""The search for a precision: what is tried, what ships, and that nothing is lost on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from pipeline.compress.quantization.engines.registry import ENGINES
from pipeline.compress.quantization.integer_layers import integer_layers
from pipeline.core.errors import DeviceError, InputError, SecateurError, StageError
from pipeline.onnx_graph.file import read_onnx
from pipeline.precision.search import FIRST, LAST, METHODS
from pipeline.precision.targets import target_facts
from pipeline.precision.variant import Variant
from tests.defaults import asked
from tests.unit.precision.search_fixtures import BUDGET_S, HASWELL, SAMPLES, VNNI

if TYPE_CHECKING:
    from onnx import ModelProto

    from tests.unit.precision.search_fixtures import What, World


def engine(what: What) -> str:
    """Return the engine, or what else a candidate is."""
    return what.engine if isinstance(what, Variant) else what


def test_the_fastest_file_that_is_right_wins(world: World) -> None:
    """The fastest of all loses too much and is not recovered; of the right ones the fastest ships."""
    world.installed = ("onnxruntime", "neural-compressor", "nncf")
    world.speed = lambda what: {"float": 1.0, "other": 1.1, "onnxruntime": 1.5, "nncf": 2.0}.get(engine(what), 3.0)
    world.accuracy = lambda what: 0.5 if engine(what) == "neural-compressor" else 0.9
    found = world.find()
    assert engine(found.chosen.variant or "none") == "nncf"
    rows = world.rows(found)
    assert rows["nncf, u8s8, min-max"].reason == "the fastest that is accurate enough"
    assert rows["neural-compressor, u8s8, min-max"].reason == "loses 40 points of accuracy, allowed: 0.5"
    assert rows["dynamic int8"].reason == "slower than the fastest"
    assert rows["FP32"].state == "kept"
    assert world.plan(found).winner.engine == "nncf"


def test_the_fastest_are_timed_once_more_against_the_float_file(world: World) -> None:
    """All together first, those close to the fastest at the end, each time with a share of the budget."""
    world.speed = lambda what: {"float": 1.0, "other": 1.8}.get(engine(what), 2.0)
    found = world.find()
    (first, first_budget), (last, last_budget) = world.timed[0], world.timed[-1]
    assert first[0] == last[0] == "float"
    assert "other" in first
    assert set(last[1:]) == {each.variant for each in found.candidates if each.alive and each.variant}
    assert found.chosen.variant in last
    assert (first_budget, last_budget) == (FIRST * BUDGET_S, LAST * BUDGET_S)
    assert sum(budget for _, budget in world.timed) <= BUDGET_S


def test_the_float_file_ships_when_all_are_slower(world: World) -> None:
    """Each row says so."""
    world.speed = lambda what: 1.0 if what == "float" else 0.8
    found = world.find()
    rows = world.rows(found)
    assert found.chosen.label == "FP32"
    assert rows["FP32"].reason == "nothing else is accurate enough and certainly faster"
    assert rows["dynamic int8"].reason == "slower than the float file"
    assert {row.state for row in rows.values() if row.label != "FP32"} == {"dropped", "missing"}
    assert all(budget != LAST * BUDGET_S for _, budget in world.timed)


def test_the_float_file_ships_when_the_last_timing_shows_no_gain(world: World) -> None:
    """A gain that does not come again was noise; the row has the interval."""
    world.again = lambda what: 1.0 if what == "float" else 1.004
    found = world.find()
    rows = world.rows(found)
    assert found.chosen.label == "FP32"
    for label in ("onnxruntime, u8s8, percentile", "onnxruntime, u8s8-reduced, percentile", "dynamic int8"):
        assert rows[label].reason == "not certainly faster than the float file: 1.004x [0.999, 1.009]"


def test_the_last_timing_decides_among_those_that_were_close(world: World) -> None:
    """The first one has many files and little time."""
    world.installed = ("onnxruntime", "nncf")
    world.speed = lambda what: {"float": 1.0, "other": 1.1, "nncf": 2.0}.get(engine(what), 2.06)
    world.again = lambda what: {"float": 1.0, "nncf": 2.1}.get(engine(what), 2.0)
    found = world.find()
    assert engine(found.chosen.variant or "none") == "nncf"
    assert world.rows(found)["onnxruntime, u8s8, percentile"].reason == "slower than the fastest"


def test_the_float_file_ships_when_nothing_is_accurate(world: World) -> None:
    """After everything was tried to bring accuracy back."""
    world.accuracy = lambda what: 0.9 if what == "float" else 0.89
    found = world.find()
    rows = world.rows(found)
    assert found.chosen.label == "FP32"
    assert {row.reason for row in rows.values() if row.recovery} == {"loses 1 points of accuracy, allowed: 0.5"} | {
        row.reason for row in rows.values() if row.recovery and row.size_bytes is None
    }


def test_exactly_what_is_allowed_may_be_lost(world: World) -> None:
    """0.9 - 0.895 is a little more than 0.005 in binary fractions."""
    world.accuracy = lambda what: 0.9 if what == "float" else 0.895
    assert world.find().chosen.variant is not None


@pytest.mark.parametrize(("speed", "winner"), [(1.985, "nncf"), (1.975, "onnxruntime")])
def test_ties_go_to_the_more_accurate(world: World, speed: float, winner: str) -> None:
    """Within 1 % two files are equally fast, and accuracy counts before noise."""
    world.decibels = lambda what: 20.0 if engine(what) == "nncf" else 30.0
    world.installed = ("onnxruntime", "nncf")
    world.speed = lambda what: {"nncf": speed, "onnxruntime": 2.0, "float": 1.0}.get(engine(what), 1.0)
    world.accuracy = lambda what: 0.905 if engine(what) == "nncf" else 0.9
    found = world.find()
    assert engine(found.chosen.variant or "none") == winner
    loser = "onnxruntime" if winner == "nncf" else "nncf"
    reasons = {row.reason for row in world.plan(found).candidates if row.engine == loser and row.state == "kept"}
    assert reasons == {
        "no faster than the chosen one, and no more accurate" if winner == "nncf" else "slower than the fastest"
    }


def test_equally_accurate_ties_go_to_the_one_with_less_noise(world: World) -> None:
    """Decibels tell more than a few hundred images."""
    world.installed = ("onnxruntime", "nncf")
    world.decibels = lambda what: 40.0 if engine(what) == "nncf" else 30.0
    assert engine(world.find().chosen.variant or "none") == "nncf"


def test_the_calibration_is_chosen_by_noise(world: World) -> None:
    """On the first scheme; the next scheme takes it over, and the others say by how much they are worse."""
    noise = {"percentile": 30.0, "mse": 32.0, "min-max": -3.0, "entropy": 0.0}
    world.decibels = lambda what: noise[what.request.calibration] if isinstance(what, Variant) else 25.0
    rows = world.rows(world.find())
    assert list(noise) == list(METHODS)
    assert rows["onnxruntime, u8s8, mse"].state == "chosen"
    assert rows["onnxruntime, u8s8, entropy"].reason == ("onnxruntime, u8s8, mse has less noise: 32.0 against 0.0 dB")
    assert {name for name in rows if "u8s8-reduced" in name} == {"onnxruntime, u8s8-reduced, mse"}
    assert not any("s8s8" in name and "u8s8" not in name for name in rows)


def test_an_engine_that_is_not_installed_has_a_row_with_the_command(world: World) -> None:
    """And is not tried."""
    rows = world.rows(world.find())
    for name in ("nncf", "neural-compressor"):
        row = rows[f"{name}, static int8"]
        assert (row.state, row.reason) == ("missing", f"not installed: pip install 'secateur[{name}]'")
    assert {variant.engine for variant, _ in world.made} == {"onnxruntime"}


def test_an_engine_that_refuses_has_a_row_with_the_reason(world: World) -> None:
    """It is asked once: what it says is about the graph. The others go on."""
    world.installed = ("onnxruntime", "nncf")
    world.error = lambda variant: StageError("nncf cannot: Loop") if variant.engine == "nncf" else None
    found = world.find()
    row = world.rows(found)["nncf, u8s8, min-max"]
    assert (row.state, row.reason, row.size_bytes) == ("dropped", "nncf cannot: Loop", None)
    assert [variant.engine for variant, _ in world.made].count("nncf") == 1
    assert engine(found.chosen.variant or "none") == "onnxruntime"


def test_a_graph_that_no_engine_takes_ships_as_it_is(world: World) -> None:
    """Each calibration would be refused alike, so one is tried for each scheme."""
    world.installed = tuple(ENGINES)
    world.error = lambda variant: InputError(f"{variant.request.scheme} is not for this graph")
    world.speed = lambda what: 1.0 if what == "float" else 0.9
    found = world.find()
    assert found.chosen.label == "FP32"
    assert [variant.request.calibration for variant, _ in world.made].count("entropy") == 0
    assert all("is not for this graph" in row.reason for row in world.plan(found).candidates if row.engine)


@pytest.mark.parametrize("error", [InputError("cannot read it"), StageError("its outputs are not finite")])
def test_a_file_that_the_runtime_here_cannot_run_is_dropped(world: World, error: SecateurError) -> None:
    """With what the runtime said."""
    world.broken = lambda what: error if isinstance(what, Variant) and what.request.calibration == "mse" else None
    rows = world.rows(world.find())
    assert rows["onnxruntime, u8s8, mse"].reason == str(error)
    assert rows["onnxruntime, u8s8, mse"].accuracy is None
    assert rows["onnxruntime, u8s8, percentile"].state == "chosen"


def test_a_file_that_the_devices_runtime_refuses_is_dropped_and_the_others_are_timed(world: World) -> None:
    """The runtime there may be older than the one here."""
    world.refused = lambda what: "no kernel for MatMulInteger" if what == "other" else ""
    found = world.find()
    row = world.rows(found)["dynamic int8"]
    assert (row.state, row.reason, row.speedup) == ("dropped", "no kernel for MatMulInteger", None)
    assert world.timed[0][0] == [*world.timed[1][0], "other"]
    assert found.chosen.variant is not None


def test_a_failure_that_is_no_files_fault_ends_the_search(world: World) -> None:
    """Each file alone is fine, so that there is nothing to leave out."""
    world.failing = StageError("out of memory")
    with pytest.raises(StageError, match="out of memory"):
        world.find()


def test_a_float_file_that_does_not_work_ends_the_search(world: World) -> None:
    """It is no ground for choosing the float file."""
    world.broken = lambda what: StageError("its outputs are not finite") if what == "float" else None
    with pytest.raises(StageError, match="not finite"):
        world.find()
    assert not world.made


@pytest.mark.parametrize("place", ["build", "run", "time"])
def test_a_device_that_goes_away_ends_the_search(world: World, place: str) -> None:
    """Wherever it is noticed."""
    gone = DeviceError("pi4 does not answer")
    if place == "build":
        world.error = lambda _: gone
    elif place == "run":
        world.broken = lambda what: None if what == "float" else gone
    else:
        world.failing = gone
    with pytest.raises(DeviceError, match="pi4"):
        world.find()


def test_files_that_saturate_are_dropped_where_the_target_saturates(world: World) -> None:
    """Full-range weights, that is; 7 bits and unsigned weights stay."""
    found = world.find(flags=HASWELL, schemes=("u8s8", "u8s8-reduced", "u8u8"))
    rows = world.rows(found)
    assert rows["onnxruntime, u8s8, percentile"].reason.endswith("would be clipped to 16 bits on the target")
    assert (rows["onnxruntime, u8s8, percentile"].saturated or 0) > 0
    assert rows["onnxruntime, u8s8-reduced, percentile"].saturated == 0
    assert rows["onnxruntime, u8u8, percentile"].state == "kept"
    assert found.chosen.variant is not None
    assert found.chosen.variant.request.scheme == "u8s8-reduced"


def test_dynamic_int8_has_seven_bits_where_the_target_saturates(world: World) -> None:
    """Its products run on the same kernels."""
    largest = []
    for flags in (HASWELL, VNNI):
        found = world.find(flags=flags)
        (dynamic,) = [each for each in found.candidates if each.precision == "int8-dynamic"]
        assert dynamic.file is not None
        weights = [each for each in read_onnx(dynamic.file).graph.initializer if each.data_type == TensorProto.INT8]
        largest.append(max(int(np.abs(numpy_helper.to_array(each).astype(int)).max()) for each in weights))
    assert largest[0] <= 64 < largest[1]


def test_the_same_sums_on_arm_drop_what_differs_and_look_further(world: World) -> None:
    """A scheme that differs is given up at once, and one that does not is found behind it; nothing else is tried."""
    world.installed = ("onnxruntime", "nncf")
    found = world.find(
        schemes=("s8s8", "u8s8", "u8s8-reduced"),
        inexact_on_arm=lambda model: "" if largest_weight(model) <= 64 else "does not compute the same on ARM",
    )
    rows = world.rows(found)
    assert [row.reason for row in rows.values() if row.scheme in {"s8s8", "u8s8"}] == [
        "does not compute the same on ARM"
    ] * 4
    assert {row.scheme for row in rows.values() if row.state in {"chosen", "kept"}} == {"u8s8-reduced", None}
    assert "dynamic int8" not in rows
    assert len({row.calibration for row in rows.values() if row.scheme == "u8s8-reduced"}) == len(METHODS)


def largest_weight(model: ModelProto) -> int:
    """Return the largest magnitude among 8-bit weights of layers."""
    return max(int(np.abs(layer.weight.astype(int)).max()) for layer in integer_layers(model))


def test_what_the_recipe_keeps_stays_in_float_everywhere(world: World) -> None:
    """In every static int8 file, and in the other precisions."""
    world.installed = ("onnxruntime", "nncf")
    world.accuracy = lambda what: 0.9 if what == "float" else 0.8
    found = world.find(request=asked("u8s8", keep=("st*",)))
    assert len(world.made) > 10
    assert all("st*" in variant.asked.keep for variant, _ in world.made)
    assert all("stem" not in each.on_integers for each in found.candidates)
    assert not any("stem" in choice.nodes for choice in found.layers)


def test_a_product_that_is_kept_is_no_dynamic_one(world: World) -> None:
    """The only one here: nothing is left that could be."""
    rows = world.rows(world.find(request=asked("u8s8", keep=("fc",))))
    assert rows["dynamic int8"].reason.startswith("found no matrix product")


def test_half_precision_is_tried_where_it_is_computed_in(world: World) -> None:
    """On an ARM that does, also where nodes are to stay in float32."""
    facts = target_facts({"architecture": "aarch64", "isa": ["asimd", "asimddp", "asimdhp"]}, "onnxruntime", "1.31.1")
    assert world.rows(world.find(facts=facts))["float16"].state == "kept"
    assert world.rows(world.find(facts=facts, request=asked("s8s8", keep=("fc",))))["float16"].state == "kept"


def test_a_precision_that_takes_an_option_is_no_file(world: World) -> None:
    """OpenVINO on ARM computes any float file in float16; int8 is not worth a file there, and every engine says so."""
    facts = target_facts({"architecture": "aarch64", "isa": ["asimd", "asimdhp"]}, "openvino", "2026.4.1")
    world.installed = tuple(ENGINES)
    found = world.find(facts=facts, runtime="openvino")
    rows = world.rows(found)
    assert set(rows) == {"FP32", *(f"{name}, static int8" for name in ENGINES)}
    assert all(row.reason.startswith("no int8 for this target: The CPU plugin") for row in list(rows.values())[1:])
    assert found.chosen.label == "FP32"
    assert not world.made


def test_nothing_on_integers_is_no_candidate(world: World) -> None:
    """When all products stay in float there is nothing to gain, and nothing that could saturate."""
    found = world.find(request=asked("u8s8", keep=("stem", "dw", "point", "fc")))
    assert found.chosen.label == "FP32"
    assert world.rows(found)["onnxruntime, u8s8, percentile"].reason == (
        "none of its convolutions and matrix products would run on integers"
    )


@pytest.mark.parametrize("seed", range(8))
def test_every_row_has_a_reason_and_none_is_lost(world: World, seed: int) -> None:
    """Whatever is answered: all that was made with all images is in the table, and one file is chosen."""
    numbers = np.random.default_rng(seed)
    drawn: dict[What, tuple[float, float, float]] = {}

    def answer(what: What, place: int) -> float:
        values = drawn.setdefault(what, tuple(numbers.uniform(size=3)))
        return float(values[place])

    world.installed = tuple(ENGINES)
    world.speed = lambda what: 1.0 if what == "float" else 0.8 + 0.6 * answer(what, 0)
    world.accuracy = lambda what: 0.9 if what == "float" else 0.87 + 0.04 * answer(what, 1)
    world.decibels = lambda what: 10 + 30 * answer(what, 2)
    world.error = lambda variant: StageError("cannot") if answer(variant, 2) < 0.1 else None
    world.broken = lambda what: InputError("unreadable") if what != "float" and answer(what, 0) < 0.1 else None
    world.refused = lambda what: "refused there" if what != "float" and 0.1 < answer(what, 0) < 0.15 else ""
    found = world.find()
    plan = world.plan(found)
    assert all(row.reason for row in plan.candidates)
    assert all(choice.reason for choice in plan.layers)
    full = [variant for variant, images in world.made if images == len(SAMPLES)]
    assert [each.variant for each in found.candidates if each.variant] == full
    assert [row.state for row in plan.candidates].count("chosen") == 1
    winner = plan.winner
    assert winner.state == "chosen"
    assert winner.precision == "fp32" or (winner.speedup is not None and winner.speedup.low > 1)
    assert winner.accuracy is not None
    assert winner.accuracy >= 0.895 - 1e-9
    assert all(set(choice.nodes) <= set(winner.float_nodes) for choice in plan.layers if choice.left_in_float)


FAR = "far from the float file: 4.9 dB"


def test_far_files_are_never_chosen_however_fast_and_accurate(world: World) -> None:
    """An engine that is near ships; where another calibration is near, that one does."""
    world.installed = ("onnxruntime", "nncf")
    world.speed = lambda what: {"float": 1.0, "other": 1.1, "nncf": 1.5}.get(engine(what), 3.0)
    world.far = lambda what: FAR if engine(what) == "onnxruntime" else ""
    found = world.find()
    rows = world.rows(found)
    assert engine(found.chosen.variant or "none") == "nncf"
    assert {(row.state, row.reason) for row in rows.values() if row.engine == "onnxruntime"} == {("dropped", FAR)}
    assert all(row.accuracy is not None for row in rows.values() if row.engine == "onnxruntime")
    world.far = lambda what: FAR if isinstance(what, Variant) and what.request.calibration == "percentile" else ""
    chosen = world.find().chosen.variant
    assert chosen is not None
    assert chosen.request.calibration != "percentile"


def test_guilty_nodes_go_back_to_float_where_all_files_are_far(world: World) -> None:
    """Found in the nearest one; that file then competes like any other."""
    world.speed = lambda what: 1.0 if what == "float" else 2.0
    world.decibels = lambda what: 4.0 if isinstance(what, Variant) and what.request.calibration == "mse" else 3.0
    world.far = lambda what: FAR if isinstance(what, Variant) and "dw" not in what.in_float else ""
    found = world.find(flags=HASWELL)
    assert found.chosen.label.endswith("mse, in float: dw")
    assert found.chosen.in_float == ("dw",)
    world.far = lambda what: FAR if isinstance(what, Variant) else ""
    assert world.find().chosen.label in {"FP32", "dynamic int8"}
