"""Series that were recorded on a real machine, replayed through sampling with its looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.measure.clock import Readings
from pipeline.measure.regression import Decision, decide_verdict
from pipeline.measure.sampling import SampledRounds, SessionStart, sample
from pipeline.results.measurement import Conditions, SamplingPlan
from tests.unit.measure.replay import Scene, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.measure.sampling import Samples
    from pipeline.results.measurement import Stop

CASES = Path(__file__).parents[2] / "cases" / "latency"
SECOND = 10**9


class Recorded:
    """A runner that gives recorded rounds, with the second side's times multiplied by `factor`; sessions last 1 s."""

    def __init__(self, name: str, *, factor: float = 1.0, swapped: bool = False) -> None:
        sides = json.loads((CASES / f"{name}.json").read_text())["sides"]
        self.sides = sides[::-1] if swapped else sides
        self.factors = (1.0, factor)
        self.sessions = len(sides[0])
        self.session = 0
        self.time_ns = 0

    def create(self, subject: int) -> SessionStart:
        """Know nothing of loading."""
        del subject
        return SessionStart(1, 1)

    def block(self, subject: int, inferences: int) -> Readings:
        """Give the first round for the warm-up."""
        del inferences
        return self._readings(subject, 0)

    def rounds(self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int) -> list[list[Readings]]:
        """Give all rounds of the session."""
        del sizes, limit_ns
        count = len(self.sides[0][self.session])
        self.time_ns += SECOND
        return [[self._readings(subject, i) for subject in order] for i, order in enumerate(orders[:count])]

    def release(self) -> None:
        """Go on to the next session."""
        self.session += 1

    def now_ns(self) -> int:
        """Return a time that only sessions move."""
        return self.time_ns

    def conditions(self) -> Conditions:
        """Know nothing."""
        return Conditions()

    def _readings(self, subject: int, number: int) -> Readings:
        wall, cpu, preemptions = self.sides[subject][self.session][number]
        factor = self.factors[subject]
        return Readings((round(factor * wall),), (round(factor * cpu),), preemptions)


def replayed(recorded: Recorded, margin: float = 0.03) -> tuple[SampledRounds, Decision]:
    """Sample until there is a verdict, as a comparison does."""
    plan = SamplingPlan(budget_s=recorded.sessions, session_s=1, strict=True)

    def stop(samples: Samples, conditions: tuple[Conditions, ...]) -> Stop | None:
        found = decide_verdict(gather(Scene(), plan, samples, conditions=conditions), margin=margin)
        return "decided" if found.verdict in {"PASS", "FAIL"} else None

    sampled = sample(recorded, 2, plan=plan, seed=0, stop=stop)
    return sampled, decide_verdict(gather(Scene(), plan, sampled.samples), margin=margin)


def test_there_are_recordings() -> None:
    """Each says what it is, and has enough sessions for more than one look."""
    files = sorted(CASES.glob("*.json"))
    assert [file.stem for file in files] == ["same", "slower"]
    assert all(json.loads(file.read_text())["about"] for file in files)
    assert all(Recorded(file.stem).sessions >= 6 for file in files)


@pytest.mark.parametrize("swapped", [False, True])
def test_file_beside_itself_passes_at_the_first_look(*, swapped: bool) -> None:
    """Whichever of the two equal sides is the candidate, four sessions are enough."""
    sampled, found = replayed(Recorded("same", swapped=swapped))
    assert (sampled.stopped, len(sampled.samples[0])) == ("decided", 4)
    assert found.verdict == "PASS"


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "PASS"), (1.0, "PASS"), (1.06, "FAIL"), (1.1, "FAIL")])
def test_recording_with_a_known_factor_between_its_sides(factor: float, verdict: str) -> None:
    """Real noise and a slowdown of known size: the estimate finds it within 1 %."""
    _, found = replayed(Recorded("same", factor=factor))
    assert found.verdict == verdict
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(factor, rel=0.01)


def test_slowdown_at_the_margin_uses_the_whole_recording() -> None:
    """Every look is taken, and none of them decides."""
    recorded = Recorded("same", factor=1.03)
    sampled, found = replayed(recorded)
    assert (sampled.stopped, len(sampled.samples[0])) == ("sessions", recorded.sessions)
    assert found.verdict == "INCONCLUSIVE"


@pytest.mark.parametrize(("swapped", "verdict"), [(False, "FAIL"), (True, "PASS")])
def test_wider_network_is_slower_and_the_narrow_one_is_not(verdict: str, *, swapped: bool) -> None:
    """A quarter more channels took more than a fifth longer."""
    sampled, found = replayed(Recorded("slower", swapped=swapped))
    assert (sampled.stopped, len(sampled.samples[0]), found.verdict) == ("decided", 4, verdict)
    assert found.ratio is not None
    assert (found.ratio.value < 0.85) if swapped else (found.ratio.value > 1.2)
