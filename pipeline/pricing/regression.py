"""Shares of a file's time from measured ratios: least squares with a prior, and no share below zero.

Every share p_f of the whole file's time that grows with one feature is expected to be mu_f, off by a factor that
features of one kind and class have in common, and by one of its own. Shares are the mean of the posterior of that
normal prior, given the ratios y = X p measured with relative errors. Shares that come out negative are held at zero.

Source: Gaussian process regression with a linear kernel (Rasmussen and Williams 2006, 2.1 and 5.4.2), the active set as
in Lawson and Hanson's non-negative least squares, which here only grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ZERO = 1e-4  # of its expected share: the error with which a share is held at zero
_ROUNDS = 30  # of adding shares to those held at zero


@dataclass(frozen=True)
class Prior:
    """What is expected of the shares.

    Attributes:
        mean: [F] expected shares; above zero.
        common: [F, C] the standard deviation of each common factor where the feature has it, else 0.
        own: [F] the standard deviation of a feature's own factor.
    """

    mean: Floats
    common: Floats
    own: Floats

    def product(self, left: Floats, right: Floats) -> Floats:
        """Return the covariance [n, m] of `left` [n, F] and `right` [m, F] times the shares."""
        left, right = left * self.mean, right * self.mean
        result: Floats = (left @ self.common) @ (right @ self.common).T + (left * self.own**2) @ right.T
        return result

    def towards(self, right: Floats) -> Floats:
        """Return the covariance [F, m] of the shares and `right` [m, F] times the shares."""
        right = right * self.mean
        result: Floats = self.mean[:, None] * (self.common @ (right @ self.common).T + (right * self.own**2).T)
        return result


@dataclass(frozen=True)
class Observations:
    """Sums of shares that were measured: `features` [n, F], `values` [n] and their standard errors `errors` [n]."""

    features: Floats
    values: Floats
    errors: Floats

    def __add__(self, other: Observations) -> Observations:
        """Return both."""
        return Observations(
            np.concatenate((self.features, other.features)),
            np.concatenate((self.values, other.values)),
            np.concatenate((self.errors, other.errors)),
        )


class Posterior:
    """What is known of the shares after the observations."""

    def __init__(self, prior: Prior, observed: Observations) -> None:
        """Solve. Cost: some milliseconds for a hundred observations."""
        self.prior, self._count = prior, len(observed.values)
        held = np.zeros(len(prior.mean), bool)
        self._solve(observed)
        for _ in range(_ROUNDS):
            below = (self.shares < -_ZERO * prior.mean) & ~held
            if not below.any():
                break
            held |= below
            self._solve(observed + _held_at_zero(prior, held))
        self.shares: Floats = np.maximum(self.shares, 0.0)

    def _solve(self, observed: Observations) -> None:
        prior, features = self.prior, observed.features
        covariance = prior.product(features, features) + np.diag(observed.errors**2)
        self._factor = cho_factor(covariance, lower=True)
        self._residuals = observed.values - features @ prior.mean
        self._weights = cho_solve(self._factor, self._residuals)
        self._towards = prior.towards(features)
        self._features = features
        self.shares = prior.mean + self._towards @ self._weights

    def left_out(self) -> tuple[Floats, Floats]:
        """Return for each observation what the others predict [n], and the standard deviation of the prediction [n].

        Shares that are held at zero stay so.
        """
        inverse = cho_solve(self._factor, np.eye(len(self._weights)))
        variance = 1 / np.diag(inverse)
        predicted = self._features @ self.prior.mean + self._residuals - self._weights * variance
        return predicted[: self._count], np.sqrt(variance[: self._count])

    def deviation(self, features: Floats) -> Floats:
        """Return the standard deviation [n] of sums of shares with these features [n, F]."""
        cross = self.prior.product(features, self._features)
        known = np.einsum("nm,mn->n", cross, cho_solve(self._factor, cross.T))
        own = (features * self.prior.mean) @ self.prior.common
        total = (own**2).sum(1) + ((features * self.prior.mean * self.prior.own) ** 2).sum(1)
        result: Floats = np.sqrt(np.maximum(total - known, 0.0))
        return result


def log_likelihood(prior: Prior, observed: Observations) -> float:
    """Return the logarithm of the probability density of the observations, up to a constant, with no share held."""
    covariance = prior.product(observed.features, observed.features) + np.diag(observed.errors**2)
    factor, lower = cho_factor(covariance, lower=True)
    residuals = observed.values - observed.features @ prior.mean
    fit = float(residuals @ cho_solve((factor, lower), residuals))
    return -0.5 * fit - float(np.log(np.diag(factor)).sum())


def _held_at_zero(prior: Prior, held: NDArray[np.bool_]) -> Observations:
    rows = np.eye(len(held))[held]
    return Observations(rows, np.zeros(len(rows)), _ZERO * prior.mean[held])
