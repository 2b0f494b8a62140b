"""The features of a whole file, and their values for many states at once."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from pipeline.pricing.operators import features_of, size_of
from pipeline.pricing.table import Products, Row, WidthTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.state import NetworkState
    from pipeline.pricing.nodes import FileNode
    from pipeline.pricing.operators import Feature


def known_features(
    nodes: Iterable[FileNode], groups: Mapping[str, int], timed: Mapping[str, object] | None
) -> tuple[Feature, ...]:
    """Return the features of a file's nodes in their order; `timed` has the nodes that a profile names, or is None."""
    return tuple(
        feature
        for node in nodes
        for feature in features_of(node, dict(groups), timed=None if timed is None else node.name in timed)
    )


def table_of(features: Iterable[Feature], groups: Mapping[str, int]) -> WidthTable:
    """Return the table of all groups and of the blocks that the features lie in."""
    return WidthTable(groups, dict.fromkeys(block for feature in features for block in sorted(feature.blocks)))


def rounded_up(size: float, granule: int) -> float:
    """Return a size rounded up to full granules."""
    return ceil(size / granule - 1e-9) * granule


def whole_value(feature: Feature, groups: Mapping[str, int], granule: int) -> float:
    """Return the sum of a feature's products for the whole network."""
    widths = dict(groups)
    return sum(
        term.constant * prod(rounded_up(size_of(axis, widths), granule) for axis in term.axes) for term in feature.terms
    )


def feature_values(
    features: Sequence[Feature], table: WidthTable, granules: Mapping[str, int], states: Iterable[NetworkState]
) -> NDArray[np.float64]:
    """Return every feature for every state [S, F], as fractions of what it is for the whole network."""
    rows = [
        Row(term.constant, term.axes, granules[feature.operator], feature.blocks, place)
        for place, feature in enumerate(features)
        for term in feature.terms
    ]
    states = list(states)
    widths = np.array([table.widths({}), *(table.widths(state.widths) for state in states)])
    dropped = np.array([table.dropped(()), *(table.dropped(state.dropped) for state in states)])
    sums = Products(rows, table, len(features)).sums(widths, dropped)
    result: NDArray[np.float64] = sums[1:] / sums[0]
    return result
