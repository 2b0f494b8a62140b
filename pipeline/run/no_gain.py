"""What becomes of a stage that saves no time: `on_no_gain` of a recipe.

The exported file of what the stage made is timed against that of what it was given: side by side in the target's
runtime, on its device, with its threads and batch. A gain is an interval of the speedup that lies above 1, on the clock
that `compare` goes by: CPU time with one thread, wall time with more. Whatever leaves it open is no gain, and is told.

Accuracy and size are not asked for: a stage that only makes the file smaller is no gain here.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import GAIN
from pipeline.core.entry import ARTIFACT_FILE, RECORD_FILE
from pipeline.core.errors import InputError, StageError
from pipeline.core.runtimes import runtime_for
from pipeline.core.store import link_entry, write_artifact, write_record
from pipeline.measure.bench import plan_for
from pipeline.measure.devices import open_device
from pipeline.measure.harness import measure_subjects
from pipeline.measure.regression import decide_verdict
from pipeline.measure.subjects import MeasureTerms, Subject
from pipeline.results.run import Gain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Progress, Runtime, Stage, Target
    from pipeline.measure.regression import Decision
    from pipeline.results.measurement import Measurement, Stop
    from pipeline.results.run import Interval

#: It ends earlier once one of the two is shown to be faster. A stage without any effect takes all of it: after 20 s on
#: a quiet machine the interval is that of the floor under its error, so that more time would not make it narrower.
BUDGET_S = 20.0


def gain(
    before: Artifact,
    after: Artifact,
    stage: Stage,
    target: Target,
    *,
    seed: int,
    progress: Progress,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Gain:
    """Time two exported files, what a stage was given and what it made, and decide whether the stage stays.

    The same file twice is no gain, without timing. `shapes` are those of inputs whose sizes the files leave open.

    Raises:
        StageError: there is no gain, and the stage has `on_no_gain: fail`.
        OutputsError: a file's outputs are not finite, or of other shapes than before.
        DeviceError: the target's device cannot be reached, or went away.
    """
    runtime = timed_in(before, after, target)
    if before.digest == after.digest:
        return _decided(stage, target, runtime, "the same file")
    progress.note(f"timing the file after {stage.kind} against the one before it, for at most {BUDGET_S:g} s")
    measurement = measure_subjects(
        [Subject(label, runtime, file.file, file.digest) for label, file in (("before", before), ("after", after))],
        MeasureTerms(threads=target.threads, batch=target.batch, shapes=shapes or {}, measure_peak_memory=False),
        plan_for(2, BUDGET_S),
        seed=seed,
        devices=() if target.device == "local" else (open_device(target.device),),
        stop=_clear,
        progress=progress,
    )
    decision = _compared(measurement)
    return _decided(stage, target, runtime, _words(decision), decision.ratio, faster=_faster(decision))


def record_decision(made: Artifact, found: Gain, folder: Path, *, config: Mapping[str, Any], seconds: float) -> None:
    """Write what was decided into a step's new folder: the record, and of a stage that is kept also its artifact.

    `made` is the stage's own entry in the store; `config` and the `seconds` of timing go into the record.
    """
    own = made.lineage[-1]
    changed = {**own.changed, GAIN: found.model_dump(mode="json", exclude_none=True)}
    record = own.model_copy(update={"config": dict(config), "seconds": own.seconds + seconds, "changed": changed})
    if found.decision == "kept":
        link_entry(made.folder, folder, without=(ARTIFACT_FILE, RECORD_FILE))
        lineage = (*made.lineage[:-1], record)
        write_artifact(made.model_copy(update={"folder": folder, "lineage": lineage}), folder)
    else:
        shutil.rmtree(folder)  # what a killed run may have left there
        folder.mkdir()
    write_record(record, folder)


def timed_in(before: Artifact, after: Artifact, target: Target) -> Runtime:
    """Return the target's runtime if it reads both files, else one that does. Raises InputError when none does."""
    try:
        return runtime_for((before.form, after.form), target.runtime)
    except LookupError as error:
        raise InputError(f"on_no_gain cannot time a stage from {before.form} to {after.form}: {error}") from error


def _compared(measurement: Measurement) -> Decision:
    """Ask whether what was there before is slower than what was made: FAIL says so."""
    return decide_verdict(measurement, margin=0.0, baseline=1, candidate=0)


def _clear(measurement: Measurement) -> Stop | None:
    """End sampling once it is known which is faster."""
    decision = _compared(measurement)
    return "decided" if _faster(decision) or decision.verdict == "PASS" else None


def _faster(decision: Decision) -> bool:
    """Say whether a gain is proven. Where wall and CPU time disagree about how much, each has to show it."""
    if decision.verdict == "FAIL":
        return True
    doubts = {reason.code for reason in decision.reasons[1:]}
    clocks = (decision.wall, decision.cpu)
    return doubts == {"contended"} and all(clock is not None and clock.low > 1 for clock in clocks)


def _words(decision: Decision) -> str:
    """Write the speedup with its interval, and what casts doubt on it."""
    doubts = [reason.text for reason in decision.reasons[1:]]
    return "; ".join([_span(decision.ratio) if decision.ratio else "not measured", *doubts])


def _span(speedup: Interval) -> str:
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}]"


def _decided(
    stage: Stage, target: Target, runtime: Runtime, text: str, speedup: Interval | None = None, *, faster: bool = False
) -> Gain:
    """Return what becomes of a stage. Raises StageError for a stage that had to bring a gain and did not."""
    if stage.on_no_gain == "fail" and not faster:
        raise StageError(
            f"{stage.kind} gained no time in {runtime} with {target.threads} thread(s): {text}. Expected: an interval "
            "above 1x, because it has on_no_gain: fail. Remove the stage, change its settings, or write on_no_gain: "
            "keep; its result is kept and will not be made again"
        )
    figures = {"speedup": speedup.value, "low": speedup.low, "high": speedup.high} if speedup else {}
    return Gain(decision="kept" if faster else "skipped", runtime=runtime, text=text, **figures)
