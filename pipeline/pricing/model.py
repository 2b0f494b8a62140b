"""What a file takes in milliseconds at any widths and without any blocks: a cost model fitted to whole-file times.

    t(x) / t(whole) = overhead + sum over nodes that are left of (call + macs + reads + writes + weights + edges)

Each part is a share of the whole file's time that grows in proportion to one product of sizes, and sizes are rounded up
to what the node's class computes at once. No share is negative, so that a state costs more than a wider one only by its
edges: sizes that are no multiple of 4, 8 or 16, which a runtime's kernels finish value by value.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.features import (
    feature_values,
    known_features,
    reference_of,
    table_of,
)
from pipeline.pricing.table import Row, StateSums

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.pricing.nodes import FileNode
    from pipeline.pricing.operators import Feature
    from pipeline.pricing.regression import Posterior

#: What leave-one-out errors a model may have to be trusted: median, and nine tenths of them.
TRUSTED_MEDIAN = 0.04
TRUSTED_P90 = 0.10
_ENOUGH = 10  # probes for errors that say anything


@dataclass(frozen=True)
class Granule:
    """The step of widths of one class of operators; `seen` False: no probe could tell it, and it is what is usual."""

    size: int
    seen: bool


@dataclass(frozen=True)
class Coefficients:
    """What a model knows of a file, in plain values.

    Attributes:
        whole_ms: time of the whole file in milliseconds.
        overhead: share of it that no node takes.
        shares: by node and kind of work, the share of the whole file's time.
        rounding: by class of operator, what sizes are rounded up to.
        granules: by class of operator, what widths should be multiples of.
        errors: |predicted / measured - 1| of each probe, predicted from the others.
        correction: what predictions are multiplied with, after a file was measured that came out otherwise.
    """

    whole_ms: float
    overhead: float
    shares: Mapping[str, Mapping[str, float]]
    rounding: Mapping[str, int]
    granules: Mapping[str, Granule]
    errors: tuple[float, ...] = ()
    correction: float = 1.0

    @property
    def median_error(self) -> float:
        """The median of the leave-one-out errors; 1 without any."""
        return float(np.median(self.errors)) if self.errors else 1.0

    @property
    def p90_error(self) -> float:
        """Nine tenths of the leave-one-out errors are no larger; 1 without any."""
        return float(np.quantile(self.errors, 0.9)) if self.errors else 1.0

    @property
    def is_trusted(self) -> bool:
        """Whether a plan may rest on the predictions."""
        enough = len(self.errors) >= _ENOUGH
        return enough and self.median_error <= TRUSTED_MEDIAN and self.p90_error <= TRUSTED_P90

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Coefficients:
        """Read what `to_json` returned."""
        granules = {name: Granule(**granule) for name, granule in data["granules"].items()}
        return cls(**{**data, "granules": granules, "errors": tuple(data["errors"])})


class LatencyModel:
    """The milliseconds of a file as a function of the state of its network. A `CostModel`."""

    name = "milliseconds"

    def __init__(
        self,
        nodes: Sequence[FileNode],
        groups: Mapping[str, int],
        coefficients: Coefficients,
        posterior: Posterior | None = None,
    ) -> None:
        """Lay out the sums.

        Args:
            nodes: of the whole file.
            groups: the width of every group of the whole network.
            coefficients: what was fitted.
            posterior: how well it is known, for `deviations`.
        """
        self.nodes, self.groups, self.coefficients, self.posterior = tuple(nodes), dict(groups), coefficients, posterior
        self.features = known_features(nodes, self.groups, coefficients.shares)
        self._rows = tuple(self._rows_of(feature) for feature in self.features)
        flat = tuple(row for rows in self._rows for row in rows)
        self._sums = StateSums(flat, table_of(self.features, self.groups))

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the milliseconds with these kept widths by group, the others whole, without the `dropped` blocks."""
        return self._overhead + self._sums.at(NetworkState(widths, frozenset(dropped)))

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[np.float64]:
        """Return the milliseconds [len(widths)] of a state with this group at each of these widths."""
        return self._overhead + self._sums.along(state, group, widths)

    def node_times(self, state: NetworkState | None = None) -> dict[str, float]:
        """Return the milliseconds of every node that has time of its own, of the whole file or in a state."""
        state = state or NetworkState()
        times: dict[str, float] = {}
        for feature, rows in zip(self.features, self._rows, strict=True):
            times[feature.node] = times.get(feature.node, 0.0) + self._time(rows, state)
        return times

    def class_times(self, state: NetworkState | None = None) -> dict[str, float]:
        """Return the milliseconds of every class of operators, the longest first."""
        state = state or NetworkState()
        times: dict[str, float] = {}
        for feature, rows in zip(self.features, self._rows, strict=True):
            times[feature.operator] = times.get(feature.operator, 0.0) + self._time(rows, state)
        return dict(sorted(times.items(), key=lambda item: -item[1]))

    @property
    def overhead(self) -> float:
        """Milliseconds that no width and no block changes."""
        return self._overhead

    @property
    def shares(self) -> dict[str, float]:
        """The milliseconds of every node of the whole file that has time of its own."""
        return self.node_times()

    def feature_times(self, state: NetworkState) -> list[tuple[Feature, float]]:
        """Return every feature with its milliseconds in a state."""
        return [(each, self._time(rows, state)) for each, rows in zip(self.features, self._rows, strict=True)]

    def calibrated(self, kappa: float) -> LatencyModel:
        """Return the model with all predictions times `kappa`: what a measured file took over what was predicted."""
        scaled = replace(self.coefficients, correction=kappa * self.coefficients.correction)
        return LatencyModel(self.nodes, self.groups, scaled, self.posterior)

    def deviations(self, states: Iterable[NetworkState]) -> NDArray[np.float64]:
        """Return the standard deviations of the predictions for some states, as fractions of them.

        Raises ValueError when the model was read from its coefficients: how well they are known is not kept.
        """
        if self.posterior is None:
            raise ValueError("the model was not fitted here: fit it to the probes")
        states = list(states)
        parts = feature_values(self.features, self.groups, self.coefficients.rounding, states)
        features = np.concatenate((np.ones((len(states), 1)), parts), axis=1)  # the overhead first
        costs = np.array([self.cost(state.widths, state.dropped) for state in states])
        scale = self.coefficients.whole_ms * self.coefficients.correction
        result: NDArray[np.float64] = self.posterior.deviation(features) * scale / costs
        return result

    @property
    def _overhead(self) -> float:
        return self._scale * self.coefficients.overhead

    @property
    def _scale(self) -> float:
        return self.coefficients.whole_ms * self.coefficients.correction

    def _rows_of(self, feature: Feature) -> tuple[Row, ...]:
        """Return the milliseconds of a feature as products."""
        granule = self.coefficients.rounding[feature.operator]
        share = self.coefficients.shares[feature.node][feature.kind]
        factor = self._scale * share / reference_of(feature, self.groups, granule)
        return tuple(Row(term, granule, feature.blocks, factor) for term in feature.terms)

    def _time(self, rows: Sequence[Row], state: NetworkState) -> float:
        return sum(row.value({**self.groups, **state.widths}, state.dropped) for row in rows)
