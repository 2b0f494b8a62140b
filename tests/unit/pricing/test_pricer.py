"""Pricing replayed without a clock: probes of devices with known laws, kept and reused, through drift and failures."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from onnx import TensorProto, helper

from pipeline.compress.pruning.cost import ProductsModel
from pipeline.compress.pruning.graph import Axis
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import DeviceError, InputError
from pipeline.core.file_precision import FilePrecision
from pipeline.core.stage import SilentProgress
from pipeline.pricing.coarse import COARSE_PROBES, CoarseModel, fit_coarse
from pipeline.pricing.floor import floor_of
from pipeline.pricing.model import LatencyModel
from pipeline.pricing.pricer import PricedNetwork, Pricer
from pipeline.pricing.probes import Probe
from pipeline.pricing.relative import RelativeModel
from pipeline.pricing.timing import TOGETHER, FileTimer
from tests.unit.pricing.fake_timer import FakeTimer
from tests.unit.pricing.known_devices import Device, drawn_states, residual_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.pricing.nodes import FileNode

NODES, GROUPS = residual_file(2, 1)
BLOCKS = tuple(sorted({block for node in NODES for block in node.blocks}))
GRIDS = {name: [*range(4, width + 1, 4)] for name, width in GROUPS.items()}
INSIDE = {block: frozenset({block}) for block in BLOCKS}


@dataclass(frozen=True)
class StateLaw:
    """The law of a device, for files that say which state they are."""

    device: Device

    def ms(self, model: ModelProto) -> float:
        """Return the milliseconds of a file."""
        return self.device.ms(_state_of(model))

    def node_ms(self, model: ModelProto) -> dict[str, float]:
        """Return the milliseconds of each node."""
        return self.device.node_ms(_state_of(model))


@dataclass(frozen=True)
class Template:
    """Files that hold nothing but their state."""

    nodes: tuple[FileNode, ...] = NODES

    def file_at(self, state: NetworkState) -> ModelProto:
        """Return a file that says which state it is."""
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, {"state": json.dumps([dict(state.widths), sorted(state.dropped)])})
        return model


class Told(SilentProgress):
    """Progress that remembers the share that was done."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def update(self, done: float, total: float, text: str = "") -> None:
        """Note the share."""
        assert text
        self.shares.append(done / total)


def _state_of(model: ModelProto) -> NetworkState:
    widths, dropped = json.loads(model.metadata_props[0].value)
    return NetworkState(widths, frozenset(dropped))


def macs_of_groups() -> ProductsModel:
    """Return multiply-accumulates that are all in proportion to one group each."""
    groups = [cast("Any", SimpleNamespace(name=name, width=width)) for name, width in GROUPS.items()]
    return ProductsModel("macs", groups, [(1.0, (Axis(0, {name: 1}),)) for name in GROUPS])


def network(template: Template | None = Template(), make: object = None) -> PricedNetwork:
    """Return the residual network of the known devices as it is priced."""
    return PricedNetwork(
        "Residual",
        FilePrecision(),
        GROUPS,
        GRIDS,
        BLOCKS,
        INSIDE,
        macs_of_groups(),
        cast("Any", make),
        cast("Any", template),
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Probe few states, and return how many are added."""
    monkeypatch.setattr("pipeline.pricing.pricer.DRAWN", 6)
    monkeypatch.setattr("pipeline.pricing.pricer.ADDED", 8)
    monkeypatch.setattr("pipeline.pricing.pricer._SHARES", 6)
    monkeypatch.setattr("pipeline.pricing.fit.GRANULES", (8, 4))
    return 8


@pytest.fixture
def price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pricer]:
    """Return what makes a pricer with a timer of its own; all share one cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = SimpleNamespace(fingerprint={"cpu": "one"}, runtime="onnxruntime", runtime_version="1")
    monkeypatch.setattr("pipeline.pricing.prober.machine_of", lambda *_: machine)

    def make(device: Device, seed: int = 0, **settings: Any) -> Pricer:  # noqa: ANN401 - any field's
        timer = FakeTimer(cast("Any", StateLaw(device)), **settings)
        monkeypatch.setattr("pipeline.pricing.pricer.node_times", timer.profile)
        return Pricer(network(), cast("Any", timer), tmp_path / "probes", seed)

    return make


@pytest.mark.parametrize(
    ("granule", "edge", "noise", "drift"), [(8, 1, 0.0, 0.0), (16, 1, 0.01, 0.0), (1, 8, 0.01, 0.05)]
)
def test_steps_couplings_and_overhead_are_found(
    price: Callable[..., Pricer], granule: int, edge: int, noise: float, drift: float
) -> None:
    """States that were not probed are predicted, the floor is that of the device, and no drift is seen."""
    device = Device(NODES, GROUPS, granule, edge)
    model = price(device, noise=noise, drift=drift).model()
    assert isinstance(model, LatencyModel)
    assert model.coefficients.is_trusted
    whole = device.ms(NetworkState())
    errors = [
        model.cost(state.widths, state.dropped) / model.cost({}) / (device.ms(state) / whole) - 1
        for state in drawn_states(GROUPS, [*BLOCKS], 24, step=4)
    ]
    assert np.median(np.abs(errors)) < 0.03
    floor = floor_of(model, GRIDS, BLOCKS)
    assert floor.ms / model.cost({}) == pytest.approx(device.ms(floor.state) / whole, rel=0.15)


@pytest.mark.usefixtures("few")
def test_a_drift_of_all_files_changes_nothing(
    price: Callable[..., Pricer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A device that gets slower by a tenth with every measurement gives the same probes."""
    steady = price(Device(NODES, GROUPS))
    steady.model()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    drifting = price(Device(NODES, GROUPS), drift=0.1)
    drifting.model()
    for one, other in zip(steady.profile.probes, drifting.profile.probes, strict=True):
        assert (one.widths, one.dropped) == (other.widths, other.dropped)
        assert one.log_ratio == pytest.approx(other.log_ratio, abs=1e-9)


@pytest.mark.usefixtures("few")
def test_a_device_that_goes_away_loses_nothing(
    price: Callable[..., Pricer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was measured is kept; the next run measures what is missing, with any seed, and finds the same model."""
    device = Device(NODES, GROUPS)
    first = price(device, lasts=4)
    with pytest.raises(DeviceError, match="went away"):
        first.model()
    kept = len(first.profile.probes)
    assert kept == first.timer.measured > 0
    second = price(device, seed=7)
    model = second.model()
    total = len(second.profile.probes)
    assert second.timer.measured == total - kept
    third = price(device)
    assert third.model().coefficients == model.coefficients
    assert third.timer.measured == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    at_once = price(device)
    assert at_once.model().coefficients == model.coefficients
    assert {each.model_dump_json() for each in at_once.profile.probes} == {
        each.model_dump_json() for each in second.profile.probes
    }


def test_a_device_whose_clock_falls_is_throttled() -> None:
    """A quarter below what it was at the start; what cannot be read is not judged."""
    timer = FileTimer(cast("Any", SimpleNamespace(device="ssh://board")), {}, 0, None, cast("Any", None))

    def seen(*frequencies: float | None) -> Any:  # noqa: ANN401 - a measurement with nothing else
        rounds = [SimpleNamespace(frequency_mhz=each) for each in frequencies]
        return SimpleNamespace(subjects=[SimpleNamespace(sessions=[SimpleNamespace(rounds=rounds)])])

    for frequencies in ((None,), (2000, 2200), (1600, None), (2400,), (1900,)):
        timer._require_steady(seen(*frequencies))
    with pytest.raises(DeviceError, match=r"ssh://board is throttled.* 1700 MHz, and ran at 2400 MHz.* is kept"):
        timer._require_steady(seen(1700))


def test_other_widths_are_probed_with_what_is_known(price: Callable[..., Pricer], few: int) -> None:
    """A profile of a coarser grid is no answer for a finer one, but its probes count."""
    device = Device(NODES, GROUPS)
    coarse = price(device)
    coarse.network = PricedNetwork(
        **{**vars(coarse.network), "grids": {name: [width // 2, width] for name, width in GROUPS.items()}}
    )
    coarse.model()
    fine = price(device)
    fine.model()
    assert fine.timer.measured > few
    assert len(fine.profile.probes) == len(coarse.profile.probes) + fine.timer.measured


def test_blocks_alone_without_a_template_are_refused(price: Callable[..., Pricer]) -> None:
    """Real files are timed with their blocks, and no group has another width."""
    pricer = price(Device(NODES, GROUPS))
    whole = {name: grid[-1:] for name, grid in GRIDS.items()}
    pricer.network = replace(pricer.network, template=None, droppable=(), grids=whole)
    with pytest.raises(InputError, match=r"no template, so that blocks are no moves, .* leave no group another width"):
        pricer.model()


@pytest.mark.usefixtures("few")
def test_probes_of_other_moves_explain_nothing(price: Callable[..., Pricer]) -> None:
    """They are kept, but a template whose blocks or groups stay cannot say what the files without them were."""
    device = Device(NODES, GROUPS)
    price(device).model()
    held, *_ = GROUPS
    progress = Told()
    fewer = price(device, progress=progress)
    still = [replace(node, blocks=frozenset()) for node in NODES]
    fewer.network = PricedNetwork(
        **{
            **vars(fewer.network),
            "template": Template(tuple(still)),
            "droppable": (),
            "grids": {**GRIDS, held: GRIDS[held][-1:]},
        }
    )
    kept = fewer.profile.probes
    model = fewer.model()
    assert isinstance(model, LatencyModel)
    assert model.coefficients.is_trusted
    assert fewer.profile.probes[: len(kept)] == kept
    assert len(model.coefficients.errors) == len(fewer.probes) < len(fewer.profile.probes)
    assert not any(probe.state.dropped or held in probe.state.widths for probe in fewer.probes)
    assert progress.shares
    assert max(progress.shares) <= 1


def test_gains_are_measured_against_the_state_itself(price: Callable[..., Pricer]) -> None:
    """Some files at once, each as log(time without the move / time of the state)."""
    device = Device(NODES, GROUPS)
    pricer = price(device)
    state = NetworkState(dict.fromkeys(GROUPS, 8), frozenset(BLOCKS[:1]))
    without = {str(place): other for place, other in enumerate(drawn_states(GROUPS, [*BLOCKS], TOGETHER + 1))}
    pricer.timer.calls = 0
    gains = pricer.gains(state, without)
    assert pricer.timer.calls == 2
    for name, other in without.items():
        assert gains[name].log.centre == pytest.approx(np.log(device.ms(other) / device.ms(state)))


def test_without_a_template_real_files_give_an_overhead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few states between the narrowest and the whole; blocks are unknown to the model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    timer = FakeTimer(cast("Any", StateLaw(Device(NODES, GROUPS))))
    pricer = Pricer(network(None, Template().file_at), cast("Any", timer), tmp_path / "probes", 0)
    model = pricer.model()
    assert isinstance(model, CoarseModel)
    assert timer.measured == COARSE_PROBES
    assert 0 < model.overhead < 1
    with pytest.raises(ValueError, match="channels alone"):
        model.cost({}, {BLOCKS[0]})


@pytest.mark.parametrize(("overhead", "found"), [(0.0, 0.0), (0.3, 0.3), (-0.2, 0.0)])
def test_the_coarse_model_is_linear(overhead: float, found: float) -> None:
    """Its overhead is never negative."""
    states = [NetworkState(dict.fromkeys(GROUPS, width)) for width in (4, 8, 16)]
    macs = macs_of_groups()
    probes = [
        Probe(state, float(np.log(overhead + (1 - overhead) * macs.cost(state.widths) / macs.cost({}))), 0.01)
        for state in states[overhead < 0 :]
    ]
    model = fit_coarse(macs, 2.0, probes)
    assert model.overhead == pytest.approx(found, abs=1e-9)
    assert model.cost({}) == 2.0
    assert model.costs(states[0], "stream0", [4, 16])[0] == model.cost(states[0].widths)
    assert max(model.errors) == pytest.approx(0, abs=1e-9) or overhead < 0
    assert fit_coarse(macs, 2.0, [Probe(NetworkState(), 0.0, 0.01)]).overhead == pytest.approx(0.99)


@pytest.mark.parametrize("damage", [{"whole": {"value": 0, "low": 0, "high": 0}}, {"nodes": {"n": 0}}, {"probes": 1e9}])
@pytest.mark.usefixtures("few")
def test_a_profile_with_impossible_times_is_measured_again(
    price: Callable[..., Pricer], damage: dict[str, Any]
) -> None:
    """It is JSON of the right form, but dividing by such a time would end in numbers that are none."""
    device = Device(NODES, GROUPS)
    first = price(device)
    first.model()
    kept = json.loads(first.kept.read_text(encoding="utf-8"))
    kept |= {"probes": [{**kept["probes"][0], "log_ratio": 1e9}]} if "probes" in damage else damage
    first.kept.write_text(json.dumps(kept), encoding="utf-8")
    again = price(device)
    assert not again.profile.probes
    assert again.profile.whole == first.profile.whole


def test_a_relative_model_adds_what_has_left() -> None:
    """Groups that are not named have the width that is left of them."""

    class Counting:
        name = "macs"

        def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
            return float(sum({**GROUPS, **widths}.values())) - 10 * len(dropped)

        def costs(self, state: NetworkState, group: str, widths: list[int]) -> Any:  # noqa: ANN401 - an array
            return np.array([self.cost({**state.widths, group: width}, state.dropped) for width in widths])

    base = NetworkState({"stream0": 8}, frozenset({BLOCKS[0]}))
    model = RelativeModel(cast("Any", Counting()), base)
    assert model.name == "macs"
    assert model.cost({}) == Counting().cost({"stream0": 8}, {BLOCKS[0]})
    state = NetworkState({"stream1": 4}, frozenset({BLOCKS[1]}))
    assert list(model.costs(state, "stream0", [4, 8])) == [
        Counting().cost({"stream0": width, "stream1": 4}, set(BLOCKS[:2])) for width in (4, 8)
    ]
