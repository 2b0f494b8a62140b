"""What is expected of a file's time before any other file was measured: from first guesses, or from one profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.features import feature_values, known_features
from pipeline.pricing.regression import Observations, Prior

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.pricing.nodes import FileNode
    from pipeline.pricing.operators import Feature

    Floats = NDArray[np.float64]

_OVERHEAD_SHARE = 0.02  # expected of the whole file's time, off by its own size
_WHOLE_ERROR = 0.003  # with which all shares add up to one
_PROFILE_ERROR = 0.25  # of a node's time in a profile
_PROFILE_LEAST = 0.003  # share of the whole file that a profile cannot tell from nothing
#: By how much shares are off, as fractions of what is guessed: all of one kind, all of one class of operators, all of
#: one kind in a class, and each on its own. Edges are anything from nothing to half of the time.
_KIND_OFF, _EDGES_OFF, _OPERATOR_OFF, _BOTH_OFF, _OWN_OFF = 1.0, 4.0, 1.0, 1.0, 0.3


@dataclass(frozen=True)
class Expectation:
    """The features of a file, what is expected of their shares, and what is known without probes.

    The first share of `prior` and observations is the overhead; those of the `features` [F - 1] follow. `whole`: all
    shares are one together. `profile`: the times of nodes, if there is one.
    """

    features: tuple[Feature, ...]
    prior: Prior
    whole: Observations
    profile: Observations | None


def expectation_of(
    nodes: Sequence[FileNode], groups: Mapping[str, int], profile: Mapping[str, float] | None
) -> Expectation:
    """Return what is expected of a file; see `fit.LatencyFit` for the arguments."""
    features = known_features(nodes, groups, profile)
    granules = dict.fromkeys((feature.operator for feature in features), 1)
    parts = feature_values(features, groups, granules, [NetworkState()])[0]  # 1, and 0 for edges that are none
    whole = Observations(np.concatenate(([1.0], parts))[None], np.ones(1), np.array([_WHOLE_ERROR]))
    seconds = np.array([feature.seconds for feature in features])
    guessed = seconds / (seconds @ parts)
    return Expectation(
        features, _prior(features, guessed), whole, _profiled(features, parts, profile) if profile else None
    )


def _profiled(features: Sequence[Feature], parts: Floats, profile: Mapping[str, float]) -> Observations:
    """Return the shares of nodes in a profile; a node without time is fused into another."""
    names = list(dict.fromkeys(feature.node for feature in features))
    place = {name: index for index, name in enumerate(names)}
    member = np.zeros((len(names), len(features) + 1))  # [nodes, F]
    for index, feature in enumerate(features):
        member[place[feature.node], index + 1] = parts[index]
    times = np.array([profile.get(name, 0.0) for name in names])
    times *= (1 - _OVERHEAD_SHARE) / times.sum()
    return Observations(member, times, _PROFILE_ERROR * times + _PROFILE_LEAST)


def _prior(features: Sequence[Feature], mean: Floats) -> Prior:
    kinds = np.array([_EDGES_OFF if feature.step else _KIND_OFF for feature in features])
    common = np.concatenate(
        [
            kinds[:, None] * _members(feature.kind for feature in features),
            _OPERATOR_OFF * _members(feature.operator for feature in features),
            _BOTH_OFF * _members((feature.operator, feature.kind) for feature in features),
        ],
        axis=1,
    )
    return Prior(
        mean=np.concatenate(([_OVERHEAD_SHARE], mean)),
        common=np.concatenate((np.zeros((1, common.shape[1])), common)),
        own=np.concatenate(([1.0], np.full(len(mean), _OWN_OFF))),
    )


def _members(keys: Iterable[Hashable]) -> Floats:
    """Return which key each item has [items, keys], as ones and zeros."""
    keys = list(keys)
    place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    result: Floats = np.eye(len(place))[[place[key] for key in keys]]
    return result
