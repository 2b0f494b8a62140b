"""The latency model against devices with known laws: errors on states that it did not see, granules, floor, trust."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError
from pipeline.pricing.design import probe_states
from pipeline.pricing.fit import LatencyFit, fit_latency
from pipeline.pricing.floor import floor_of
from pipeline.pricing.model import Coefficients, Granule, LatencyModel
from tests.unit.pricing.known_devices import Device, drawn_states, residual_file

NODES, GROUPS = residual_file()
BLOCKS = sorted({block for node in NODES for block in node.blocks})
STATES = drawn_states(GROUPS, BLOCKS, 48)


def fitted(
    device: Device, noise: float = 0.015, drift: float = 0.0, states: list[NetworkState] = STATES
) -> LatencyModel:
    """Return the model of a device after some probes."""
    return fit_latency(NODES, GROUPS, device.ms(NetworkState()), device.probes(states, noise, drift))


@pytest.mark.parametrize("granule", [1, 4, 8, 16])
def test_predicts_states_that_were_not_probed_and_finds_the_granule(granule: int) -> None:
    """Errors on unseen states are about the noise, and the step of the law is found."""
    device = Device(NODES, GROUPS, granule)
    model = fitted(device)
    errors = [model.cost(s.widths, s.dropped) / device.ms(s) - 1 for s in drawn_states(GROUPS, BLOCKS, 150)[50:]]
    assert np.median(np.abs(errors)) < 0.015
    assert model.coefficients.median_error < 0.025
    assert model.coefficients.is_trusted
    found = model.coefficients.granules["conv3x3 int8"]
    assert (found.size, found.seen) == (granule, True)


def test_finds_widths_that_are_slower_than_the_next_wider_one() -> None:
    """A device whose kernels finish what exceeds a multiple of 16 value by value: 12 channels are slower than 16."""
    device = Device(NODES, GROUPS, 1, edge=16)
    model = fitted(device, states=drawn_states(GROUPS, BLOCKS, 60, step=4))
    assert model.coefficients.is_trusted
    assert model.coefficients.granules["conv3x3 int8"] == Granule(16, seen=True)
    widths = {group: 12 for group, width in GROUPS.items() if width == 16}
    assert device.ms(NetworkState(widths)) > device.ms(NetworkState())
    assert model.cost(widths) > model.cost({})


def test_says_that_no_probe_could_tell_the_granule() -> None:
    """Widths in steps of 16 cannot tell granules of 1 to 16."""
    model = fitted(Device(NODES, GROUPS, 8), states=drawn_states(GROUPS, BLOCKS, 48, step=16))
    assert not any(granule.seen and granule.size < 16 for granule in model.coefficients.granules.values())


def test_errors_are_those_of_models_without_the_probe() -> None:
    """Leave-one-out errors agree with fits without the probe."""
    device = Device(NODES, GROUPS)
    probes = device.probes(STATES[:20], 0.01)
    fit = LatencyFit(NODES, GROUPS, 1.0)
    full = fit.model(probes)
    for place in (0, 7, 13):
        other = fit.model([*probes[:place], *probes[place + 1 :]], rounding=full.coefficients.rounding)
        left = probes[place]
        error = abs(other.cost(left.state.widths, left.state.dropped) / np.exp(left.log_ratio) - 1)
        assert full.coefficients.errors[place] == pytest.approx(error, abs=0.01)


def test_a_device_that_drifts_while_probing_is_not_trusted() -> None:
    """A drift inside one series shows as errors."""
    device = Device(NODES, GROUPS)
    shuffled = [STATES[place] for place in np.random.default_rng(0).permutation(len(STATES))]
    assert not fitted(device, drift=0.4, states=shuffled).coefficients.is_trusted


def test_a_law_of_another_form_is_not_trusted() -> None:
    """Time that no product of widths explains shows as errors."""
    device = Device(NODES, GROUPS)
    probes = device.probes(STATES, 0.01)
    odd = [
        type(probe)(probe.state, probe.log_ratio + (0.25 if sum(probe.state.widths.values()) % 3 else 0), probe.error)
        for probe in probes
    ]
    assert not fit_latency(NODES, GROUPS, 1.0, odd).coefficients.is_trusted


def test_few_probes_are_never_trusted() -> None:
    """Five probes say nothing of errors."""
    assert not fitted(Device(NODES, GROUPS), states=STATES[:5]).coefficients.is_trusted


def test_a_group_at_other_widths_costs_what_whole_states_cost_and_no_more_when_narrower_by_full_steps() -> None:
    """Changing one group agrees with pricing the state anew, and costs are monotone."""
    model = fitted(Device(NODES, GROUPS))
    for state in STATES[:5]:
        for group, width in GROUPS.items():
            widths = range(1, width + 1)
            costs = model.costs(state, group, widths)
            assert costs == pytest.approx([model.cost({**state.widths, group: each}, state.dropped) for each in widths])
            assert (np.diff(costs[15::16]) >= -1e-12).all()  # multiples of all steps


def test_the_floor_is_the_least_time_and_adds_up() -> None:
    """The floor is a state, its parts add up, and no state is below it."""
    device = Device(NODES, GROUPS)
    grids = {group: range(max(4, width // 4), width + 1) for group, width in GROUPS.items()}
    model = fitted(device, states=[*probe_states(grids, BLOCKS, seed=1)])
    floor = floor_of(model, grids, BLOCKS)
    assert floor.ms == pytest.approx(model.cost(floor.state.widths, floor.state.dropped))
    assert floor.ms == pytest.approx(floor.overhead + floor.calls + floor.unchanged + floor.narrowed)
    assert floor.ms == pytest.approx(device.ms(floor.state), rel=0.1)
    assert set(floor.nodes) <= {"stem", "down1", "down2"}
    assert floor.ms <= min(model.cost(state.widths, state.dropped) for state in STATES)


def test_shares_add_up_to_the_whole_file() -> None:
    """Nodes and overhead make the whole."""
    model = fitted(Device(NODES, GROUPS))
    whole = model.coefficients.whole_ms
    assert sum(model.shares.values()) + model.overhead == pytest.approx(model.cost({}))
    assert sum(model.class_times().values()) == pytest.approx(sum(model.shares.values()))
    assert model.cost({}) == pytest.approx(whole, rel=0.02)


def test_a_profile_decides_where_probes_do_not() -> None:
    """A profile moves the shares that few probes leave open."""
    device = Device(NODES, GROUPS)
    probes = device.probes(STATES[:4], 0.01)
    true = device.node_ms(NetworkState())
    known, unknown = (fit_latency(NODES, GROUPS, 1.5, probes, profile=profile).shares for profile in (true, None))
    wrong = [sum(abs(shares[node] - ms) for node, ms in true.items()) for shares in (known, unknown)]
    assert wrong[0] < 0.7 * wrong[1]


def test_a_weighted_probe_pulls_the_prediction_to_itself() -> None:
    """Ten times the weight brings the prediction nearer."""
    device = Device(NODES, GROUPS)
    fit, probes = LatencyFit(NODES, GROUPS, 1.0), device.probes(STATES, 0.01)
    state = drawn_states(GROUPS, BLOCKS, 60)[-1]
    true = np.log(device.ms(state) / device.ms(NetworkState()))
    extra = type(probes[0])(state, float(true + 0.05), 0.005)
    rounding = fit.model(probes).coefficients.rounding
    light, heavy = (fit.model([*probes, extra], [1.0] * len(probes) + [w], rounding) for w in (1, 10))
    aim = np.exp(true + 0.05)
    assert abs(heavy.cost(state.widths, state.dropped) - aim) < abs(light.cost(state.widths, state.dropped) - aim)


def test_coefficients_survive_json_and_a_correction_scales_everything() -> None:
    """A model can be stored, and scaled."""
    model = fitted(Device(NODES, GROUPS))
    read = Coefficients.from_json(json.loads(json.dumps(model.coefficients.to_json())))
    again = LatencyModel(NODES, GROUPS, read)
    state = STATES[3]
    assert again.cost(state.widths, state.dropped) == model.cost(state.widths, state.dropped)
    assert model.calibrated(1.1).cost(state.widths) == pytest.approx(1.1 * model.cost(state.widths))
    with pytest.raises(ValueError, match="not fitted here"):
        again.deviations([state])


def test_names_a_group_that_is_not_there() -> None:
    """A wrong name is said."""
    with pytest.raises(InputError, match="No group 'nothing'"):
        fitted(Device(NODES, GROUPS)).cost({"nothing": 3})


def test_a_group_that_no_node_is_in_costs_the_same_at_any_width() -> None:
    """Such as one whose nodes a runtime computes with others: a search asks for its widths all the same."""
    device = Device(NODES, GROUPS, 8)
    states = [NetworkState({"idle": 8}), *STATES]
    model = fit_latency(NODES, {**GROUPS, "idle": 16}, device.ms(NetworkState()), device.probes(states, 0.01, 0.0))
    assert model.costs(NetworkState(), "idle", [8, 16]) == pytest.approx([model.cost({})] * 2)
