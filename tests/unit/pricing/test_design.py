"""States to probe: distinct, on the grids, the same for the same seed, and where the model is least sure."""

from __future__ import annotations

from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.design import active_states, distinct, probe_states
from pipeline.pricing.fit import fit_latency
from tests.unit.pricing.known_devices import Device, drawn_states, residual_file

GRIDS = {"a": list(range(8, 65, 8)), "b": [4, 8, 12, 16], "whole": [3]}


def test_states_are_distinct_on_the_grids_and_repeatable() -> None:
    """States lie on the grids, none is the whole network, and the seed decides."""
    states = probe_states(GRIDS, ["x", "y"], seed=3, count=24)
    assert states == probe_states(GRIDS, ["x", "y"], seed=3, count=24)
    assert states != probe_states(GRIDS, ["x", "y"], seed=4, count=24)
    assert states == distinct(states)
    assert NetworkState() not in states
    assert all(width in GRIDS[group] for state in states for group, width in state.widths.items())
    assert not any("whole" in state.widths for state in states)
    for alone in (NetworkState(dropped=frozenset("x")), NetworkState(dropped=frozenset("y")), NetworkState({"a": 8})):
        assert alone in states


def test_of_many_blocks_random_halves_leave() -> None:
    """Twenty blocks are not dropped one by one."""
    blocks = [f"block{index}" for index in range(20)]
    halves = [state for state in probe_states(GRIDS, blocks, seed=0, count=4) if len(state.dropped) == 10]
    assert len(halves) >= 8
    assert frozenset(blocks) == frozenset().union(*(state.dropped for state in halves))


def test_the_least_certain_states_come_first() -> None:
    """A state unlike all probes comes before a probed one."""
    nodes, groups = residual_file()
    device = Device(nodes, groups)
    model = fit_latency(nodes, groups, 1.0, device.probes(drawn_states(groups, [], 20), 0.01))
    known, unknown = drawn_states(groups, [], 20)[0], NetworkState({}, frozenset({"block0.0", "block1.1", "block2.2"}))
    assert active_states(model, [known, unknown, known, NetworkState()], count=5)[0] == unknown
    assert len(active_states(model, [known, unknown, known], count=5)) == 2
