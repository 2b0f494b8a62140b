"""Series with a known truth, replayed through the sampling protocol without a clock.

A `Replay` is a `BlockRunner`: two subjects or more, whose times a `Scene` says. Time passes only as inferences do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.measure.clock import Readings
from pipeline.measure.regression import decide_verdict
from pipeline.measure.sampling import SampledRounds, SessionStart, sample
from pipeline.results.measurement import Conditions, Measurement, SamplingPlan, SubjectSamples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.measure.sampling import Samples
    from pipeline.results.comparison import Metric
    from pipeline.results.measurement import Stop

MILLISECOND = 1_000_000
#: As long as a session of the sampling protocol usually takes, in rounds.
ROUNDS = 12
INFERENCES = 8


@dataclass(frozen=True)
class Scene:
    """What happens to the subjects; times are relative to those of the first.

    Two subjects with true times `wall` and `cpu`. Per round, noise that both share (exponential, of mean `shared`); per
    inference, noise of its own (`own`); per session and subject a bias (`session`, standard deviation of its log). A
    share `late` of the inferences is preempted. `course` is a factor on both, as a function of how much of the
    measurement is over (0 to 1); `uneven` makes every second round that much noisier.
    """

    wall: tuple[float, ...] = (1.0, 1.0)
    cpu: tuple[float, ...] | None = None
    shared: float = 0.1
    own: float = 0.02
    session: float = 0.0
    late: float = 0.18
    course: Callable[[float], float] = lambda _: 1.0
    uneven: float = 1.0
    threads: int = 1
    frequency_mhz: tuple[float, ...] | None = None
    temperature_c: Callable[[float], float] | None = None
    steal: float | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)


class Replay:
    """The runner of a scene; the same seed replays the same series."""

    def __init__(self, scene: Scene, *, seed: int = 0, sessions: int = 10) -> None:
        """Begin at time 0; `sessions` is how many there will be at most."""
        self.scene = scene
        self.sessions = sessions
        self.time_ns = 0
        self.session = 0
        self._rng = np.random.default_rng(seed)
        self._bias: dict[int, float] = {}

    def create(self, subject: int) -> SessionStart:
        """Draw the subject's bias in this session."""
        self._bias[subject] = float(np.exp(self._rng.normal(0, self.scene.session)))
        self.time_ns += MILLISECOND
        return SessionStart(MILLISECOND, MILLISECOND)

    def block(self, subject: int, inferences: int) -> Readings:
        """Infer in a round of its own."""
        return self._block(subject, inferences, self._shared(0))

    def rounds(self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int) -> list[list[Readings]]:
        """Give as many rounds as are asked for, however long they take."""
        del limit_ns
        done: list[list[Readings]] = []
        for number, order in enumerate(orders):
            shared = self._shared(number)
            found = {subject: self._block(subject, sizes[subject], shared) for subject in sorted(order)}
            done.append([found[subject] for subject in order])
        return done

    def release(self) -> None:
        """Count the session."""
        self.session += 1
        self._bias.clear()

    def now_ns(self) -> int:
        """Return the simulated time."""
        return self.time_ns

    def conditions(self) -> Conditions:
        """Return what the scene says."""
        heat = self.scene.temperature_c
        return Conditions(steal=self.scene.steal, temperature_c=heat(self._over()) if heat else None)

    def _over(self) -> float:
        return min(self.session / self.sessions, 1.0)

    def _shared(self, number: int) -> float:
        scale = self.scene.shared * (self.scene.uneven if number % 2 else 1.0)
        return (1 + float(self._rng.exponential(scale))) * self.scene.course(self._over())

    def _block(self, subject: int, inferences: int, shared: float) -> Readings:
        scene = self.scene
        own = shared * self._bias[subject] * (1 + self._rng.exponential(scene.own, inferences))
        late = self._rng.random(inferences) < scene.late
        wall = np.rint(MILLISECOND * scene.wall[subject] * own * np.where(late, 5, 1)).astype(int)
        cpu = np.rint(MILLISECOND * (scene.cpu or scene.wall)[subject] * own).astype(int)
        self.time_ns += int(wall.sum())
        frequency = scene.frequency_mhz[subject] if scene.frequency_mhz else None
        return Readings(tuple(wall.tolist()), tuple(cpu.tolist()), int(late.sum()), frequency)


def plan_of(sessions: int = 4, *, looks: bool = True, **fields: Any) -> SamplingPlan:  # noqa: ANN401
    """Return a plan of so many short sessions; without `looks` the only one is at the end."""
    content = {
        "budget_s": 1e3,
        "session_s": 1e3 / sessions,
        "min_sessions": 4 if looks else sessions,
        "max_rounds": ROUNDS,
        "replicates": 40,
        "warmup_cap_ns": MILLISECOND,
        "strict": True,
    }
    return SamplingPlan.model_validate({**content, **fields})


def gather(scene: Scene, plan: SamplingPlan, sampled: Samples, **fields: Any) -> Measurement:  # noqa: ANN401
    """Return the measurement that these samples are."""
    subjects = tuple(
        SubjectSamples(
            label="ab"[index],
            runtime="onnxruntime",
            runtime_version="1",
            options={},
            digest="ab"[index],
            input_shapes={"image": (1, 3, 8, 8)},
            threads=scene.threads,
            fingerprint=scene.fingerprint,
            sessions=sessions,
        )
        for index, sessions in enumerate(sampled)
    )
    content = {
        "created": "2026-01-01T00:00:00+00:00",
        "batch": 1,
        "seed": 0,
        "in_force": {},
        "plan": plan,
        "seconds": 1.0,
        "stopped": "budget",
        "conditions": (),
        "subjects": subjects,
    }
    return Measurement.model_validate({**content, **fields})


def measured(
    scene: Scene, *, seed: int = 0, plan: SamplingPlan | None = None, margin: float = 0.03, metric: Metric | None = None
) -> Measurement:
    """Sample a scene and stop at the first look at which there is a verdict, as a comparison does."""
    plan = plan or plan_of()

    def stop(samples: Samples, conditions: tuple[Conditions, ...]) -> Stop | None:
        found = decide_verdict(gather(scene, plan, samples, conditions=conditions), margin=margin, metric=metric)
        return "decided" if found.verdict in {"PASS", "FAIL"} else None

    sampled: SampledRounds = sample(
        Replay(scene, seed=seed, sessions=plan.max_sessions), len(scene.wall), plan=plan, seed=seed, stop=stop
    )
    return gather(
        scene,
        plan,
        sampled.samples,
        seconds=sampled.seconds,
        stopped=sampled.stopped,
        conditions=sampled.conditions,
    )
