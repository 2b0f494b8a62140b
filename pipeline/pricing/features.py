"""The features of a whole file, and their values for many states at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.pricing.operators import features_of
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
        for feature in features_of(node, groups, timed=None if timed is None else node.name in timed)
    )


def table_of(features: Iterable[Feature], groups: Mapping[str, int]) -> WidthTable:
    """Return the table of all groups and of the blocks that the features lie in."""
    return WidthTable(groups, dict.fromkeys(block for feature in features for block in sorted(feature.blocks)))


def reference_of(feature: Feature, groups: Mapping[str, int], granule: int) -> float:
    """Return the sum of a feature's products for the whole network, edges left out."""
    whole = (Row(replace(term, edge=None), granule, frozenset()) for term in feature.terms)
    return sum(row.value(groups, ()) for row in whole)


def feature_values(
    features: Sequence[Feature],
    groups: Mapping[str, int],
    granules: Mapping[str, int],
    states: Iterable[NetworkState],
) -> NDArray[np.float64]:
    """Return every feature for every state [S, F], as fractions of its reference."""
    table = table_of(features, groups)
    rows = [
        Row(
            term,
            granules[feature.operator],
            feature.blocks,
            1 / reference_of(feature, groups, granules[feature.operator]),
            place,
        )
        for place, feature in enumerate(features)
        for term in feature.terms
    ]
    states = list(states)
    widths = np.array([table.widths(state.widths) for state in states])
    dropped = np.array([table.dropped(state.dropped) for state in states])
    return Products(rows, table, len(features)).sums(widths, dropped)
