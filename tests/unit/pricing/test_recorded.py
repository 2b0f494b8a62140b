"""The latency model and the solver on times that were measured on real files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.compress.pruning.allocation import Choices, least_damage
from pipeline.pricing.fit import fit_latency
from tests.unit.pricing.recorded import SERIES, Recorded, recorded

if TYPE_CHECKING:
    from pipeline.pricing.model import LatencyModel

#: The class of operators that each network spends most time in, by the beginning of its name.
SECOND = {"resnet": "conv3x3", "mobile": "conv1x1"}


def fitted(series: Recorded, count: int | None = None) -> LatencyModel:
    """Return the model of a series, fitted to all probes or to every second one."""
    probes = series.probes[::2] if count == 2 else series.probes
    return fit_latency(series.nodes, series.groups, series.whole_ms, probes, profile=series.profile)


@pytest.mark.parametrize("name", SERIES)
def test_states_that_were_left_out_are_predicted(name: str) -> None:
    """Median within 4 %, nine tenths within 10 %, although the noise alone is 1.5 to 4 %."""
    coefficients = fitted(recorded(name)).coefficients
    assert coefficients.is_trusted
    assert all(coefficients.granules[f"{layer} int8"].seen for layer in ("first conv3x3", SECOND[name[:6]]))


@pytest.mark.parametrize("name", SERIES)
def test_half_of_the_probes_predict_the_other_half(name: str) -> None:
    """Widths alone between a quarter and all, blocks alone and together."""
    series = recorded(name)
    model = fitted(series, 2)
    errors = [
        model.cost(probe.state.widths, probe.state.dropped) / series.whole_ms / np.exp(probe.log_ratio) - 1
        for probe in series.probes[1::2]
    ]
    assert np.median(np.abs(errors)) < 0.05


@pytest.mark.parametrize("factor", [0.75, 0.35])
@pytest.mark.parametrize("name", SERIES)
def test_no_plan_has_a_width_that_is_slower_than_a_wider_one(name: str, factor: float) -> None:
    """Grids in steps of 4, where 12 channels run slower than 16."""
    series = recorded(name)
    model = fitted(series)
    grids = {group: [*range(min(4, width), width, 4), width] for group, width in series.groups.items()}
    blocks = dict.fromkeys(sorted({block for node in series.nodes for block in node.blocks}), 0.4)
    damage = {group: (1 - np.array(grid) / grid[-1]) ** 2 for group, grid in grids.items()}
    plan = least_damage(Choices(grids, damage, blocks), model, factor * series.whole_ms, evaluations=2000)
    assert 0.9 * factor * series.whole_ms <= plan.cost <= factor * series.whole_ms
    for group, grid in grids.items():
        costs = model.costs(plan.state, group, grid)
        here = grid.index(plan.state.widths.get(group, grid[-1]))
        assert (costs[here + 1 :] >= costs[here] * (1 - 1e-9)).all()
