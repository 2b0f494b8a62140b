"""The sampling protocol: sessions of interleaved rounds, over anything that can run a block of inferences.

All subjects are loaded together, warmed up, and then timed in rounds: each round has one block of every subject, in
random order, so that load, frequency and heat of the moment act on all of them alike and cancel in the ratio of one
round. After a session everything is created again in random order, since the memory layout of one creation is a bias
that no number of rounds averages out.

Source: Bulej et al., "Duet Benchmarking" (ICPE 2020) for pairing; Kalibera & Jones, "Rigorous Benchmarking in
Reasonable Time" (ISMM 2013) for repetition at every level that has a random effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pipeline.core.errors import DeviceError
from pipeline.core.stage import SilentProgress
from pipeline.results.measurement import Block, SessionSamples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.core.stage import Progress
    from pipeline.measure.clock import Readings
    from pipeline.results.measurement import Conditions, SamplingPlan, Stop

#: Longest time between two reports of progress, unless a single round takes longer.
PIECE_NS = 1_000_000_000
#: Sessions of each subject.
Samples = tuple[tuple[SessionSamples, ...], ...]


@dataclass(frozen=True)
class SessionStart:
    """How long it took to load a subject and to infer for the first time."""

    load_ns: int
    first_ns: int


class BlockRunner(Protocol):
    """What the protocol drives: the subjects, numbered from 0, and a clock. Tests replay recorded series through it."""

    def create(self, subject: int) -> SessionStart:
        """Load a subject and infer once."""

    def block(self, subject: int, inferences: int) -> Readings:
        """Infer `inferences` times without a break."""

    def rounds(self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int) -> list[list[Readings]]:
        """Time rounds, each one block of every subject in the given order, until `limit_ns` is over; at least one."""

    def release(self) -> None:
        """Let go of everything that was created."""

    def now_ns(self) -> int:
        """Return the time on a clock that only moves forward."""

    def conditions(self) -> Conditions:
        """Return the state of the machine since the last call."""


@dataclass(frozen=True)
class SampledRounds:
    """What sampling returns: samples per subject, conditions per session, why it stopped, and how long it took.

    `error` is the device's, when it went away: what was finished before is kept.
    """

    samples: Samples
    conditions: tuple[Conditions, ...]
    stopped: Stop
    seconds: float
    error: DeviceError | None = None


@dataclass(frozen=True)
class _Sampler:
    """One run of the protocol: everything that its steps share."""

    runner: BlockRunner
    subjects: int
    plan: SamplingPlan
    rng: np.random.Generator
    progress: Progress
    started_ns: int

    def elapsed_ns(self) -> int:
        return self.runner.now_ns() - self.started_ns

    def order(self) -> list[int]:
        return [int(subject) for subject in self.rng.permutation(self.subjects)]

    def session(self, number: int) -> tuple[SessionSamples, ...]:
        """Create all subjects, warm them up and time rounds until the session's time is over.

        At least as long as loading and warming up took is spent on rounds, else most of the budget would be lost.
        """
        begun_ns = self.runner.now_ns()
        try:
            created = {subject: self.runner.create(subject) for subject in self.order()}
            warmups = {subject: self._warm_up(subject, created[subject].first_ns) for subject in self.order()}
            sizes = [self.plan.block_size(min(warmups[subject][-1].wall_ns)) for subject in range(self.subjects)]
            ready_ns = self.runner.now_ns()
            rounds = self._rounds(
                sizes, max(begun_ns + int(self.plan.session_s * 1e9), 2 * ready_ns - begun_ns), number
            )
        finally:
            self.runner.release()
        return tuple(
            SessionSamples(
                load_ns=created[subject].load_ns,
                first_ns=created[subject].first_ns,
                warmup=warmups[subject],
                rounds=tuple(blocks[subject] for blocks in rounds),
            )
            for subject in range(self.subjects)
        )

    def _rounds(self, sizes: Sequence[int], end_ns: int, number: int) -> list[dict[int, Block]]:
        """Time rounds until `end_ns`, but never fewer or more than the plan's; in pieces short enough to report on."""
        rounds: list[dict[int, Block]] = []
        while len(rounds) < self.plan.min_rounds or (
            len(rounds) < self.plan.max_rounds and self.runner.now_ns() < end_ns
        ):
            orders = [self.order() for _ in range(self.plan.max_rounds - len(rounds))]
            left_ns = max(end_ns - self.runner.now_ns(), 0)
            for order, blocks in zip(orders, self.runner.rounds(orders, sizes, min(left_ns, PIECE_NS)), strict=False):
                placed = enumerate(zip(order, blocks, strict=True))
                rounds.append({subject: _block(readings, place) for place, (subject, readings) in placed})
            self._report(number, len(rounds))
        return rounds

    def _warm_up(self, subject: int, first_ns: int) -> tuple[Block, ...]:
        """Run blocks until their minima agree, or until the subject's share of half the session is spent."""
        cap_ns = min(self.plan.warmup_cap_ns, self.plan.session_s * 1e9 / (2 * self.subjects))
        blocks: list[Block] = []
        spent_ns, inference_ns = 0, first_ns
        while not blocks or (spent_ns < cap_ns and not self._settled(blocks)):
            readings = self.runner.block(subject, self.plan.block_size(inference_ns))
            blocks.append(_block(readings, 0))
            spent_ns += sum(readings.wall_ns)
            inference_ns = min(readings.wall_ns)
        return tuple(blocks)

    def _settled(self, blocks: Sequence[Block]) -> bool:
        last = [min(block.wall_ns) for block in blocks[-self.plan.warmup_blocks :]]
        return len(last) == self.plan.warmup_blocks and max(last) <= min(last) * (1 + self.plan.warmup_agreement)

    def _report(self, session: int, rounds: int) -> None:
        budget_s = self.plan.budget_s
        done_s = min(self.elapsed_ns() / 1e9, budget_s)
        self.progress.update(done_s, budget_s, f"session {session}, round {rounds}")


def sample(
    runner: BlockRunner,
    subjects: int,
    *,
    plan: SamplingPlan,
    seed: int,
    stop: Callable[[Samples, tuple[Conditions, ...]], Stop | None],
    progress: Progress | None = None,
) -> SampledRounds:
    """Time `subjects` subjects by the protocol above until `stop` gives a reason or the plan's budget is spent.

    `stop` is asked after the sessions of the plan's looks, with what was found so far. A session is not begun when one
    as long as the longest so far would overrun the budget. Only the first `min_sessions` are taken in any case, with
    `min_rounds` rounds each: without them there is no interval. In a strict plan the budget holds even then.
    """
    rng = np.random.default_rng(seed)
    sampler = _Sampler(runner, subjects, plan, rng, progress or SilentProgress(), runner.now_ns())
    sessions: list[tuple[SessionSamples, ...]] = []
    conditions: list[Conditions] = []
    longest_ns, error = 0, None
    stopped: Stop | None = None
    while stopped is None:
        begun_ns = runner.now_ns()
        try:
            sessions.append(sampler.session(len(sessions) + 1))
            conditions.append(runner.conditions())
        except DeviceError as gone:
            del sessions[len(conditions) :]
            stopped, error = "broken off", gone
            break
        longest_ns = max(longest_ns, runner.now_ns() - begun_ns)
        would_end_s = (sampler.elapsed_ns() + longest_ns) / 1e9
        stopped = _stop(plan, len(sessions), would_end_s, lambda: stop(_by_subject(sessions), tuple(conditions)))
    samples = _by_subject(sessions) if sessions else ((),) * subjects
    return SampledRounds(samples, tuple(conditions), stopped, sampler.elapsed_ns() / 1e9, error)


def _stop(plan: SamplingPlan, sessions: int, would_end_s: float, answered: Callable[[], Stop | None]) -> Stop | None:
    """Return why sampling ends here, or None when another session follows."""
    over = would_end_s > plan.budget_s
    if sessions < plan.min_sessions:
        return "budget" if over and plan.strict else None
    found = answered() if over or sessions in plan.looks_after else None
    if found:
        return found
    if sessions >= plan.max_sessions:
        return "sessions"
    return "budget" if over else None


def _by_subject(sessions: Sequence[tuple[SessionSamples, ...]]) -> Samples:
    return tuple(zip(*sessions, strict=True))


def _block(readings: Readings, order: int) -> Block:
    return Block(order=order, **vars(readings))
