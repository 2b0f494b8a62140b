"""A latency model for networks whose file has no template: an overhead and a time for each multiply-accumulate.

Two networks of equal operations get equal times, whatever their layers are: a start for a closed loop, nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.cost import ProductsModel
    from pipeline.compress.pruning.state import NetworkState
    from pipeline.pricing.probes import Probe

#: Probes, from the narrowest state to the whole network, that give the two numbers.
COARSE_PROBES = 6
_MOST_OVERHEAD = 0.99


class CoarseModel:
    """Milliseconds as a linear function of another cost. A `CostModel`; residual blocks are unknown to it."""

    name = "milliseconds"

    def __init__(self, macs: ProductsModel, whole_ms: float, overhead: float, errors: Sequence[float] = (1.0,)) -> None:
        """Take the cost, the whole file's time, and the share of it that does not depend on the cost, in [0, 1].

        `errors` are |predicted / measured - 1| of probes, each predicted from the others.
        """
        self.macs, self.whole_ms, self.overhead, self.errors = macs, whole_ms, overhead, tuple(errors)
        self._whole = macs.cost({})

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the milliseconds with these kept widths by group.

        Raises ValueError when blocks are dropped.
        """
        if dropped:
            raise ValueError(f"found dropped blocks {sorted(dropped)}; expected channels alone")
        return self.whole_ms * (self.overhead + (1 - self.overhead) * self.macs.cost(widths) / self._whole)

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[np.float64]:
        """Return the milliseconds of a state with this group at each of these widths."""
        shares = self.macs.costs(state, group, widths) / self._whole
        found: NDArray[np.float64] = self.whole_ms * (self.overhead + (1 - self.overhead) * shares)
        return found


def fit_coarse(macs: ProductsModel, whole_ms: float, probes: Sequence[Probe]) -> CoarseModel:
    """Fit the overhead to probes by least squares, weighted by their errors."""
    whole = macs.cost({})
    shares = np.array([macs.cost(probe.state.widths) / whole for probe in probes])
    ratios = np.exp([probe.log_ratio for probe in probes])
    weights = np.array([probe.error for probe in probes]) ** -2.0
    errors = [1.0]
    if len(probes) > 1:
        others = [np.arange(len(probes)) != place for place in range(len(probes))]
        left_out = [_overhead(shares[each], ratios[each], weights[each]) for each in others]
        errors = list(abs((left_out + (1 - np.array(left_out)) * shares) / ratios - 1))
    return CoarseModel(macs, whole_ms, _overhead(shares, ratios, weights), errors)


def _overhead(shares: NDArray[np.float64], ratios: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    rest = 1 - shares  # ratio - share = overhead * (1 - share)
    square = float((weights * rest * rest).sum())  # 0 where nothing that was probed has other operations
    overhead = float((weights * rest * (ratios - shares)).sum()) / square if square else _MOST_OVERHEAD
    return min(max(overhead, 0.0), _MOST_OVERHEAD)
