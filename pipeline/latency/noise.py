"""What is known of a device's noise, and what follows for a comparison there: a floor of error, a smallest margin.

`secateur doctor` measured two copies of one file in comparisons of some seconds. A comparison of another length sees
noise in proportion to 1 / sqrt(length), as the mean of independent rounds does. Not all noise is independent: for
longer comparisons it is taken to fall to a quarter at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import IncomparableError
from pipeline.latency.device_cache import kept_file, read_kept
from pipeline.results.doctor import DoctorReport

if TYPE_CHECKING:
    from pipeline.results.comparison import Metric
    from pipeline.results.doctor import Clock
    from pipeline.results.measurement import Measurement, SamplingPlan

#: The share of the noise that is left however long one measures.
_REMAINS = 0.25
#: A margin must be so many times the 95th percentile of what two copies differ by.
HONEST = 2.0


@dataclass(frozen=True)
class KnownNoise:
    """The noise of two copies in comparisons of `seconds`: 95th percentile of |ratio - 1|, deviation of log(ratio)."""

    q95: float
    deviation: float
    seconds: float

    def smallest_margin(self, budget_s: float) -> float:
        """Return the smallest margin that comparisons of this length can judge."""
        return HONEST * self.q95 * self._scale(budget_s)

    def error_floor(self, seconds: float) -> float:
        """Return the standard error of a log-ratio after so many seconds, as the copies showed it."""
        return self.deviation * self._scale(seconds)

    def _scale(self, seconds: float) -> float:
        return max(math.sqrt(self.seconds / seconds), _REMAINS)


def noise_in(report: DoctorReport, clock: Clock) -> KnownNoise:
    """Return the noise of one clock in a report of doctor."""
    noise = report.wall if clock == "wall" else report.cpu
    return KnownNoise(noise.q95, noise.deviation, report.seconds)


def known_noise(measurement: Measurement, metric: Metric | None) -> KnownNoise | None:
    """Return what doctor found for the two sides of a comparison, the noisier of both; None where it never ran.

    It counts only for the same machine, version of the runtime and number of threads.
    """
    found: list[KnownNoise] = []
    threads = max(subject.threads for subject in measurement.subjects)
    clock = metric or ("wall" if threads > 1 else "cpu")
    for subject in measurement.subjects:
        file = kept_file("doctor", subject.fingerprint, subject.runtime, subject.runtime_version, subject.threads)
        if report := read_kept(file, DoctorReport):
            found.append(noise_in(report, "wall" if clock == "wall" else "cpu"))
    return max(found, key=lambda each: each.q95 * math.sqrt(each.seconds), default=None)


def seconds_of(measurement: Measurement) -> float:
    """Return how long a measurement has taken so far: loading, warming up and rounds of all subjects together."""
    sessions = [session for subject in measurement.subjects for session in subject.sessions]
    blocks = sum(sum(block.wall_ns) for session in sessions for block in (*session.warmup, *session.rounds))
    return (blocks + sum(session.load_ns + session.first_ns for session in sessions)) / 1e9


def with_floor(measurement: Measurement, noise: KnownNoise | None) -> Measurement:
    """Return the measurement with a plan whose error floor is no lower than the device's noise after as long a time."""
    seconds = seconds_of(measurement)
    if noise is None or not seconds:
        return measurement
    plan: SamplingPlan = measurement.plan
    floor = max(plan.error_floor, noise.error_floor(seconds))
    return measurement.model_copy(update={"plan": plan.model_copy(update={"error_floor": floor})})


def invisible_margin(noise: KnownNoise | None, margin: float, budget_s: float, *, force: bool) -> str | None:
    """Return why the device cannot judge a margin, where that was forced; None when it can, or nothing is known.

    Raises:
        IncomparableError: it cannot, and nobody forced it.
    """
    if noise is None or margin >= noise.smallest_margin(budget_s):
        return None
    sees = f"in {budget_s:g} s it can see {_percent(noise.smallest_margin(budget_s))}"
    text = f"this device cannot see {_percent(margin)}; {sees}"
    if force:
        return text
    raise IncomparableError(
        f"INCOMPARABLE: {text}: ask for a larger margin, a longer budget, or run secateur doctor again on a quiet "
        "device; --force compares anyway and marks the result as unfair"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
