"""The sampling protocol, replayed without a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError
from pipeline.measure.clock import Readings
from pipeline.measure.sampling import PIECE_NS, SampledRounds, SessionStart, sample
from pipeline.results.measurement import Conditions, SamplingPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.measure.sampling import Samples
    from pipeline.results.measurement import Stop

MILLISECOND = 1_000_000


@dataclass
class Replay:
    """Subjects of constant speed on a clock that only inferences and loading move; keeps what was asked of it."""

    inference_ns: Sequence[int]
    load_ns: int = MILLISECOND
    settles_after: int = 0
    time_ns: int = 0
    created: list[int] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    released: int = 0
    warm: dict[int, int] = field(default_factory=dict)
    pieces: list[tuple[int, int]] = field(default_factory=list)

    def create(self, subject: int) -> SessionStart:
        """Take time to load and to infer once."""
        self.created.append(subject)
        self.warm[subject] = 0
        self.time_ns += self.load_ns + self.inference_ns[subject]
        return SessionStart(self.load_ns, self.inference_ns[subject])

    def block(self, subject: int, inferences: int) -> Readings:
        """Take as long as the subject needs; blocks before it settles are slower, each in another measure."""
        self.blocks.append((subject, inferences))
        self.warm[subject] += 1
        cold = max(self.settles_after - self.warm[subject] + 1, 0)
        each = self.inference_ns[subject] * (1 + cold)
        self.time_ns += each * inferences
        return Readings((each,) * inferences, (each,) * inferences, 0)

    def rounds(self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int) -> list[list[Readings]]:
        """Time rounds until the limit is over."""
        end_ns, done = self.time_ns + limit_ns, []
        for order in orders:
            done.append([self.block(subject, sizes[subject]) for subject in order])
            if self.time_ns >= end_ns:
                break
        self.pieces.append((limit_ns, len(done)))
        return done

    def release(self) -> None:
        """Count it."""
        self.released += 1

    def now_ns(self) -> int:
        """Return the simulated time."""
        return self.time_ns

    def conditions(self) -> Conditions:
        """Know nothing."""
        return Conditions()


def never(_: Samples, __: tuple[Conditions, ...]) -> Stop | None:
    """Have no answer."""
    return None


def run(
    replay: Replay,
    *,
    seed: int = 0,
    stop: Callable[[Samples, tuple[Conditions, ...]], Stop | None] = never,
    **plan: float,
) -> SampledRounds:
    """Sample all subjects of `replay` in sessions of a second, at most 8 unless the plan says otherwise."""
    chosen = SamplingPlan.model_validate({"budget_s": 8, "session_s": 1, **plan})
    return sample(replay, len(replay.inference_ns), plan=chosen, seed=seed, stop=stop)


def test_every_round_has_one_block_of_every_subject() -> None:
    """Round by round, all subjects appear once, at the place that their block keeps."""
    sampled = run(Replay([MILLISECOND, 2 * MILLISECOND, 3 * MILLISECOND]))
    for session in range(len(sampled.conditions)):
        rounds = zip(*(subject[session].rounds for subject in sampled.samples), strict=True)
        assert all(sorted(block.order for block in blocks) == [0, 1, 2] for blocks in rounds)


def test_no_subject_is_always_first() -> None:
    """The order in a round is random, so that no subject profits from its place."""
    sampled = run(Replay([MILLISECOND, MILLISECOND]))
    orders = [block.order for session in sampled.samples[0] for block in session.rounds]
    assert 0.3 < sum(orders) / len(orders) < 0.7


def test_creation_order_changes_between_sessions() -> None:
    """Subjects are loaded in random order, all of them in each session."""
    replay = Replay([MILLISECOND] * 4)
    sampled = run(replay)
    sessions = len(sampled.conditions)
    orders = [tuple(replay.created[4 * i : 4 * i + 4]) for i in range(sessions)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert len(set(orders)) > 1
    assert replay.released == sessions


def test_same_seed_gives_the_same_samples() -> None:
    """The order depends on the seed alone."""
    subjects = [MILLISECOND, 2 * MILLISECOND]
    assert run(Replay(subjects), seed=3) == run(Replay(subjects), seed=3)
    assert run(Replay(subjects), seed=3) != run(Replay(subjects), seed=4)


def test_block_size_follows_the_subject() -> None:
    """Each subject has as many inferences in a block as 10 ms hold, from 3 to 16."""
    sampled = run(Replay([MILLISECOND // 10, 2 * MILLISECOND, 50 * MILLISECOND]))
    sizes = [{len(block.wall_ns) for session in subject for block in session.rounds} for subject in sampled.samples]
    assert sizes == [{16}, {5}, {3}]


def test_steady_subject_is_warm_after_three_blocks() -> None:
    """Three block minima that agree end the warm-up, which is kept apart."""
    sampled = run(Replay([MILLISECOND]))
    assert [len(session.warmup) for session in sampled.samples[0]] == [3] * len(sampled.conditions)


def test_warm_up_waits_until_the_subject_settles() -> None:
    """Slow first blocks prolong the warm-up and do not reach the rounds."""
    sampled = run(Replay([MILLISECOND], settles_after=5))
    assert [len(session.warmup) for session in sampled.samples[0]] == [8] * len(sampled.conditions)
    assert {ns for session in sampled.samples[0] for block in session.rounds for ns in block.wall_ns} == {MILLISECOND}


def test_warm_up_is_capped() -> None:
    """A subject that never settles gets its share of half a session at most."""
    sampled = run(Replay([MILLISECOND, MILLISECOND], settles_after=40))
    spent = [sum(sum(block.wall_ns) for block in session.warmup) for session in sampled.samples[0]]
    slowest_block = 10 * 41 * MILLISECOND
    assert all(250 * MILLISECOND <= ns <= 250 * MILLISECOND + slowest_block for ns in spent)


def test_answer_ends_it_at_the_first_look() -> None:
    """The first look is after the fourth session, and its reason is kept."""
    sampled = run(Replay([MILLISECOND, MILLISECOND]), stop=lambda *_: "decided")
    assert sampled.stopped == "decided"
    assert len(sampled.samples[0]) == 4


def test_samples_are_looked_at_only_where_the_plan_says() -> None:
    """Every look costs some certainty, so that there are none beyond those that the intervals allow for."""
    looked: list[int] = []

    def look(samples: Samples, conditions: tuple[Conditions, ...]) -> Stop | None:
        assert len(conditions) == len(samples[0])
        looked.append(len(samples[0]))
        return None

    plan = SamplingPlan(budget_s=1000, session_s=50)
    sampled = sample(Replay([MILLISECOND, MILLISECOND]), 2, plan=plan, seed=0, stop=look)
    assert tuple(looked) == plan.looks_after == (4, 6, 9, 14, 20)
    assert sampled.stopped == "sessions"


def test_budget_that_ends_early_has_its_look_at_the_end() -> None:
    """What was measured is looked at once more when no session follows, and never more often than planned."""
    looked: list[int] = []

    def look(samples: Samples, conditions: tuple[Conditions, ...]) -> Stop | None:
        assert len(conditions) == len(samples[0])
        looked.append(len(samples[0]))
        return None

    sampled = run(Replay([MILLISECOND, MILLISECOND], load_ns=350 * MILLISECOND), stop=look)
    assert sampled.stopped == "budget"
    assert looked == [4, 5]
    assert len(looked) <= SamplingPlan(budget_s=8, session_s=1).looks


def test_without_an_answer_all_sessions_are_taken() -> None:
    """With time left, sampling ends with the last session, each with the most rounds."""
    sampled = run(Replay([MILLISECOND, MILLISECOND]), budget_s=1000, session_s=100, max_rounds=20)
    assert sampled.stopped == "sessions"
    assert [len(session.rounds) for session in sampled.samples[0]] == [20] * 10


def test_as_much_time_goes_to_rounds_as_to_loading() -> None:
    """A file that takes longer to load than a session should last is still timed for as long."""
    sampled = run(Replay([MILLISECOND, MILLISECOND], load_ns=5000 * MILLISECOND), budget_s=1, max_rounds=600)
    session = sampled.samples[0][0]
    timed = sum(sum(block.wall_ns) for subject in sampled.samples for block in subject[0].rounds)
    assert timed >= 2 * (session.load_ns + session.first_ns)


def test_budget_is_not_overrun_by_another_session() -> None:
    """No session is begun that would end after the budget."""
    sampled = run(Replay([MILLISECOND, MILLISECOND], load_ns=300 * MILLISECOND))
    assert sampled.stopped == "budget"
    assert sampled.seconds <= 8
    assert 4 <= len(sampled.samples[0]) < 8


def test_minimum_is_taken_even_when_the_budget_is_too_small() -> None:
    """Four sessions of three rounds are the least; without them there would be no interval."""
    sampled = run(Replay([40 * MILLISECOND, 40 * MILLISECOND]), budget_s=0.01, session_s=0.01)
    assert sampled.seconds > 0.01
    assert [len(session.rounds) for session in sampled.samples[1]] == [3] * 4


def test_strict_budget_holds_before_the_minimum_too() -> None:
    """No second session is begun when it would overrun the budget, and nobody is asked for an answer."""

    def unasked(samples: Samples, conditions: tuple[Conditions, ...]) -> Stop | None:
        raise AssertionError(samples, conditions)

    replay = Replay([40 * MILLISECOND, 40 * MILLISECOND])
    sampled = run(replay, budget_s=0.01, session_s=0.01, strict=True, stop=unasked)
    assert sampled.stopped == "budget"
    assert len(sampled.samples[0]) == 1


def test_strict_budget_changes_nothing_where_there_is_time() -> None:
    """A budget that is large enough gives the same samples, strict or not."""
    subjects = [MILLISECOND, MILLISECOND]
    assert run(Replay(subjects), strict=True).samples == run(Replay(subjects)).samples


def test_rounds_are_asked_for_in_pieces() -> None:
    """No request lasts longer than a second or asks for more rounds than are left."""
    replay = Replay([MILLISECOND, MILLISECOND])
    sampled = run(replay, budget_s=40, session_s=10, max_rounds=200)
    assert len(replay.pieces) > len(sampled.conditions)
    assert all(0 <= limit_ns <= PIECE_NS for limit_ns, _ in replay.pieces)
    assert sum(done for _, done in replay.pieces) == sum(len(session.rounds) for session in sampled.samples[0])


@pytest.mark.parametrize("finished", [0, 2, 5])
def test_device_that_goes_away_leaves_what_was_finished(finished: int) -> None:
    """Whole sessions are kept, the broken one is not, and the error is handed on."""
    gone = DeviceError("ssh://board: the worker ended")

    class Leaving(Replay):
        def rounds(self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int) -> list[list[Readings]]:
            if self.released == finished:
                raise gone
            return super().rounds(orders, sizes, limit_ns)

    sampled = run(Leaving([MILLISECOND, MILLISECOND]))
    assert sampled.stopped == "broken off"
    assert sampled.error is gone
    assert [len(subject) for subject in sampled.samples] == [finished, finished]
    assert len(sampled.conditions) == finished


def test_session_whose_conditions_are_unknown_is_dropped() -> None:
    """A device that goes away between a session and its conditions leaves neither."""

    class Silent(Replay):
        def conditions(self) -> Conditions:
            if self.released == 3:
                raise DeviceError("gone")
            return super().conditions()

    sampled = run(Silent([MILLISECOND, MILLISECOND]))
    assert [len(subject) for subject in sampled.samples] == [2, 2]
    assert len(sampled.conditions) == 2


def test_sessions_are_released_when_a_subject_fails() -> None:
    """What was loaded is let go of also when loading the next one fails."""

    class Broken(Replay):
        def create(self, subject: int) -> SessionStart:
            if subject == 1:
                raise MemoryError
            return super().create(subject)

    replay = Broken([MILLISECOND, MILLISECOND])
    with pytest.raises(MemoryError):
        run(replay)
    assert replay.released == 1


def test_progress_stays_within_the_budget() -> None:
    """Progress counts seconds of the budget and never exceeds it."""

    @dataclass
    class Heard:
        updates: list[tuple[float, float, str]] = field(default_factory=list)

        def update(self, done: float, total: float, text: str = "") -> None:
            self.updates.append((done, total, text))

        def note(self, text: str) -> None:
            raise AssertionError(text)

    heard = Heard()
    plan = SamplingPlan(budget_s=0.5)
    replay = Replay([40 * MILLISECOND])
    sample(replay, 1, plan=plan, seed=0, stop=never, progress=heard)
    assert heard.updates[0][2].startswith("session 1, round ")
    assert all(0 < done <= total == 0.5 for done, total, _ in heard.updates)
