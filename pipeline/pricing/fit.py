"""Fitting a latency model to probes: times of whole files in states, each as a ratio to the time of the whole file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.pricing.expectation import expectation_of
from pipeline.pricing.features import feature_values
from pipeline.pricing.model import Coefficients, Granule, LatencyModel
from pipeline.pricing.regression import Observations, Posterior, log_likelihood

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.state import NetworkState
    from pipeline.pricing.expectation import Expectation
    from pipeline.pricing.nodes import FileNode

    Floats = NDArray[np.float64]

GRANULES = (8, 4, 16, 1, 32)  # in the order of preference among those that explain the probes equally well
_EQUAL = 2.0  # difference in log likelihood up to which two granules explain the probes equally well
_EDGE_LEAST = 0.02  # of the time of a class that edges must cost for widths to be worth aligning
_EDGE_ERRORS = 2.0  # standard errors that they must cost
_SWEEPS = 2  # over the classes, each time with the granules found for the others
_MODEL_ERRORS = (0.005, 0.01, 0.02, 0.04)  # of a state's time beside noise; the likeliest is taken


class Probe(Protocol):
    """One measured state: log(time / time of the whole file), and its standard error."""

    @property
    def state(self) -> NetworkState:
        """What was measured."""

    @property
    def log_ratio(self) -> float:
        """The logarithm of its time over the whole file's."""

    @property
    def error(self) -> float:
        """The standard error of the logarithm."""


class LatencyFit:
    """A file whose model can be fitted again and again, as probes come in."""

    def __init__(
        self,
        nodes: Sequence[FileNode],
        groups: Mapping[str, int],
        whole_ms: float,
        profile: Mapping[str, float] | None = None,
    ) -> None:
        """Set up what is expected before anything is probed.

        Args:
            nodes: of the whole file.
            groups: the width of every group of the whole network.
            whole_ms: time of the whole file in milliseconds.
            profile: milliseconds by node from one profile of the whole file; their sum need not be `whole_ms`.
        """
        self._nodes, self._groups, self._whole_ms = tuple(nodes), dict(groups), whole_ms
        self._expected = expectation_of(self._nodes, self._groups, profile)

    def model(
        self,
        probes: Sequence[Probe],
        weights: Sequence[float] | None = None,
        rounding: Mapping[str, int] | None = None,
    ) -> LatencyModel:
        """Fit.

        Args:
            probes: what was measured.
            weights: of the probes; a probe of weight 10 counts like ten. None: all 1.
            rounding: that of an earlier fit, which saves time; None: chosen by what explains the probes.
        """
        fitting = _Fitting(self._expected, self._groups, probes, weights)
        found = _as_found(rounding) if rounding else fitting.rounding()
        sizes = {operator: granule.size for operator, granule in found.items()}
        posterior, errors = fitting.best(sizes)
        overhead, *parts = posterior.shares.tolist()
        shares: dict[str, dict[str, float]] = {}
        for feature, share in zip(self._expected.features, parts, strict=True):
            shares.setdefault(feature.node, {})[feature.kind] = share
        granules = fitting.granules(posterior, found)
        coefficients = Coefficients(self._whole_ms, overhead, shares, sizes, granules, tuple(errors.tolist()))
        return LatencyModel(self._nodes, self._groups, coefficients, posterior)


def fit_latency(
    nodes: Sequence[FileNode],
    groups: Mapping[str, int],
    whole_ms: float,
    probes: Sequence[Probe],
    *,
    profile: Mapping[str, float] | None = None,
    weights: Sequence[float] | None = None,
) -> LatencyModel:
    """Fit a latency model once; see `LatencyFit` for the arguments, and for fitting again as probes come in.

    Cost: about a second for sixty nodes and ninety probes.
    """
    return LatencyFit(nodes, groups, whole_ms, profile).model(probes, weights)


def _as_found(rounding: Mapping[str, int]) -> dict[str, Granule]:
    return {operator: Granule(size, seen=False) for operator, size in rounding.items()}


class _Fitting:
    """One set of probes, for any choice of granules."""

    def __init__(
        self,
        expected: Expectation,
        groups: Mapping[str, int],
        probes: Sequence[Probe],
        weights: Sequence[float] | None,
    ) -> None:
        self._expected = expected
        self._ratios = np.exp([probe.log_ratio for probe in probes])
        self._variances = np.square([probe.error for probe in probes])
        self._weights = np.ones(len(probes)) if weights is None else np.array(weights, np.float64)
        self._operators = list(dict.fromkeys(feature.operator for feature in expected.features))
        self._column = np.array([self._operators.index(feature.operator) for feature in expected.features])
        states = [probe.state for probe in probes]
        self._values = {
            size: feature_values(expected.features, groups, dict.fromkeys(self._operators, size), states)
            for size in GRANULES
        }  # [S, F] by granule

    def rounding(self) -> dict[str, Granule]:
        """Return by class of operators the step of sizes that makes the probes likeliest."""
        sizes = dict.fromkeys(self._operators, GRANULES[0])
        seen = dict.fromkeys(self._operators, False)
        changing = [operator for operator in self._operators if self._is_told(operator)]
        for _ in range(_SWEEPS):
            for operator in changing:
                likely = {size: self._likelihood({**sizes, operator: size}) for size in GRANULES}
                equal = [size for size in GRANULES if likely[size] >= max(likely.values()) - _EQUAL]
                sizes[operator], seen[operator] = equal[0], len(equal) == 1
        return {operator: Granule(sizes[operator], seen[operator]) for operator in self._operators}

    def granules(self, posterior: Posterior, rounding: Mapping[str, Granule]) -> dict[str, Granule]:
        """Return by class of operators what widths should be multiples of, by rounding or by what edges cost."""
        features = self._expected.features
        result = dict(rounding)
        for operator, rounded in rounding.items():
            own = [place for place, feature in enumerate(features, 1) if feature.operator == operator]
            total = sum(posterior.shares[place] for place in own if not features[place - 1].step)
            for step in (16, 8, 4):
                row = np.zeros(len(features) + 1)
                row[[place for place in own if features[place - 1].step >= step]] = 1  # all that its half loses
                lost, error = float(row @ posterior.shares), float(posterior.deviation(row[None])[0])
                if lost > max(_EDGE_LEAST * total, _EDGE_ERRORS * error):
                    size = max(step, rounded.size if rounded.seen else 1)
                    result[operator] = Granule(size, seen=True)
                    break
        return result

    def best(self, sizes: Mapping[str, int]) -> tuple[Posterior, Floats]:
        """Return the posterior and its leave-one-out errors, with the likeliest error of the model's form.

        A profile that makes probes harder to predict from each other is left out.
        """
        error = max(_MODEL_ERRORS, key=lambda error: self._likelihood(sizes, error))
        observed = self._observed(sizes, error)
        known = [observed, observed + self._expected.profile] if self._expected.profile else [observed]
        found = [
            (posterior, self._errors(posterior)) for posterior in (Posterior(self._expected.prior, x) for x in known)
        ]
        return min(reversed(found), key=lambda each: float(np.median(each[1])) if len(each[1]) else 0.0)

    def _errors(self, posterior: Posterior) -> Floats:
        predicted, _ = posterior.left_out()
        result: Floats = np.abs(predicted[: len(self._ratios)] - 1)  # rows are divided by what was measured
        return result

    def _likelihood(self, sizes: Mapping[str, int], model_error: float = 0.01) -> float:
        return log_likelihood(self._expected.prior, self._observed(sizes, model_error))

    def _is_told(self, operator: str) -> bool:
        """Return whether any two granules differ in any probe."""
        own = self._column == self._operators.index(operator)
        first, *others = (values[:, own] for values in self._values.values())
        return any(not np.allclose(first, other) for other in others)

    def _observed(self, sizes: Mapping[str, int], model_error: float) -> Observations:
        by_class = [sizes[operator] for operator in self._operators]
        features = np.ones((len(self._ratios), len(self._column) + 1))  # the overhead first
        for place, size in enumerate(by_class):
            own = self._column == place
            features[:, 1:][:, own] = self._values[size][:, own]
        errors = np.sqrt((self._variances + model_error**2) / self._weights)
        measured = Observations(features / self._ratios[:, None], np.ones(len(self._ratios)), errors)
        return measured + self._expected.whole
