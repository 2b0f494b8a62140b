"""Measures files against each other: checks what they compute, then times them interleaved in a worker."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from pipeline.core.stage import SilentProgress
from pipeline.measure.clock import Readings
from pipeline.measure.sampling import SessionStart, sample
from pipeline.measure.statistics import is_precise
from pipeline.measure.subjects import PATIENCE_S, local_device, open_subjects, start_worker, subject_samples
from pipeline.results.measurement import Conditions, Measurement, SamplingPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.core.stage import Progress
    from pipeline.measure.devices import Device
    from pipeline.measure.sampling import Samples
    from pipeline.measure.subjects import MeasureTerms, OpenSubject, Subject
    from pipeline.results.measurement import Stop


class WorkerRunner:
    """The `BlockRunner` of a measurement: every subject lives in the worker of its device."""

    def __init__(self, opened: Sequence[OpenSubject], *, pause_ns: int, seed: int) -> None:
        self._opened = opened
        self._pause_ns = pause_ns
        self._seed = seed
        self._connections = list({id(each.connection): each.connection for each in opened}.values())

    def create(self, subject: int) -> SessionStart:
        """Load a subject and infer once."""
        return SessionStart(**self._ask(subject, "create", file=self._opened[subject].request, seed=self._seed))

    def block(self, subject: int, inferences: int) -> Readings:
        """Infer `inferences` times."""
        return Readings(**self._ask(subject, "block", inferences=inferences, pause_ns=self._pause_ns))

    def rounds(self, orders: Sequence[Sequence[int]], sizes: Sequence[int], limit_ns: int) -> list[list[Readings]]:
        """Time rounds: in one request where all subjects are in one worker, else with the workers taking turns."""
        if len(self._connections) == 1:
            found = self._connections[0].request(
                "rounds",
                patience_s=PATIENCE_S,
                orders=orders,
                sizes=sizes,
                limit_ns=limit_ns,
                pause_ns=self._pause_ns,
            )
            return [[Readings(**block) for block in blocks] for blocks in found]
        done: list[list[Readings]] = []
        end_ns = self.now_ns() + limit_ns
        for order in orders:
            done.append([self.block(subject, sizes[subject]) for subject in order])
            if self.now_ns() >= end_ns:
                break
        return done

    def release(self) -> None:
        """Release all sessions; a dead worker has none."""
        for connection in self._connections:
            if connection.process.poll() is None:
                connection.request("release")

    def now_ns(self) -> int:
        """Return the time on the host's performance counter."""
        return perf_counter_ns()

    def conditions(self) -> Conditions:
        """Return the state of the first subject's device since the last call."""
        return Conditions(**self._connections[0].request("conditions"))

    def _ask(self, subject: int, op: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        connection = self._opened[subject].connection
        return connection.request(op, patience_s=PATIENCE_S, subject=subject, **arguments)


def measure_subjects(
    subjects: Sequence[Subject],
    terms: MeasureTerms,
    plan: SamplingPlan,
    *,
    seed: int,
    devices: Sequence[Device] = (),
    stop: Callable[[Measurement], Stop | None] | None = None,
    ready: Callable[[Measurement], None] | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Check what the subjects compute, then time all of them interleaved for about the plan's budget.

    The first subject in each runtime is the baseline there. All sessions of one re-creation are in memory at once.
    `stop` is asked at the plan's looks, with what was measured so far; without it sampling stops when every speedup
    is known to the plan's width. `ready` is called before timing, with everything but samples: it may refuse.

    Raises:
        InputError: there is no subject, a file cannot be read, or the inputs of two subjects differ in shape.
        OutputsError: outputs are not finite, differ in shape, or by more than the tolerance.
        DeviceError: a device cannot be reached, or went away in the middle: then `partial` has what was measured.
    """
    progress = progress or SilentProgress()
    with ExitStack() as stack:
        workers = [start_worker(stack, device, terms) for device in devices or (local_device(subjects),)]
        opened = open_subjects(subjects, terms, workers, seed=seed, progress=progress)
        in_force = workers[0][1]["in_force"]
        scope = "; every call decodes its outputs" if terms.decoding else ""
        progress.note(f"measuring with {terms.threads} thread(s), batch {terms.batch}, {_text(in_force)}{scope}")

        def gather(samples: Samples, **found: Any) -> Measurement:  # noqa: ANN401 - fields of Measurement
            content = {"seconds": 0.0, "stopped": "budget", "conditions": (), **found}
            return Measurement(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                batch=terms.batch,
                pause_ns=terms.pause_ns,
                time_scope=terms.time_scope,
                seed=seed,
                in_force=in_force,
                plan=plan,
                subjects=tuple(map(subject_samples, subjects, opened, samples)),
                **content,
            )

        if ready:
            ready(gather(((),) * len(subjects)))
        sampled = sample(
            WorkerRunner(opened, pause_ns=terms.pause_ns, seed=seed),
            len(subjects),
            plan=plan,
            seed=seed,
            stop=lambda samples, conditions: (stop or _precise)(gather(samples, conditions=conditions)),
            progress=progress,
        )
    found = gather(sampled.samples, seconds=sampled.seconds, stopped=sampled.stopped, conditions=sampled.conditions)
    if sampled.error:
        sampled.error.partial = found
        raise sampled.error
    return found


def _precise(measurement: Measurement) -> Stop | None:
    found = is_precise(measurement.subjects, plan=measurement.plan, seed=measurement.seed)
    return "precise" if found else None


def _text(in_force: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in in_force.items())
