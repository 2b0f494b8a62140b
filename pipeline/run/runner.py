"""Executes a plan: one step after another, each judged on its exported file, and everything written as it is known.

A run folder holds run.json (rewritten after every step), the report, and `stages/` with links to the stored files. A
run that was killed, interrupted or has failed resumes when it is started again: finished steps are in the store, and a
stage that can resume finds its working folder.
"""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline import __version__
from pipeline.core import interruption
from pipeline.core.artifact import Artifact, StageRecord, payload_digest
from pipeline.core.code_inputs import changed_since
from pipeline.core.entry import ARTIFACT_FILE, is_listed
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.locks import file_lock, introduce_process
from pipeline.core.partial import write_whole
from pipeline.core.paths import make_folder
from pipeline.core.printable import printable_text
from pipeline.core.problems import first_names
from pipeline.core.runtimes import RUNTIMES, last_readable
from pipeline.core.stage import ChainFile, Context, SilentProgress
from pipeline.core.store import Store, link_entry, read_artifact, read_record, write_artifact, write_record
from pipeline.core.task import ACCURACY
from pipeline.core.user_code import known_as, user_code_errors
from pipeline.data import load_task, summarise_data
from pipeline.measure.machine import Threads, usable_threads
from pipeline.report.run.gains import effects_sentence
from pipeline.results.bundle import BundleOptions
from pipeline.results.measurement import MEASUREMENT_FILE, load_measurement
from pipeline.results.run import Row, RunReport
from pipeline.results.run_folder import LOCK_FILE, PLAN_FILE, RUN_FILE, previous_ingredients
from pipeline.results.scores import task_facts
from pipeline.run.disk import disk_errors
from pipeline.run.evaluator import Evaluator
from pipeline.run.lasting import lasting_changes
from pipeline.run.no_gain import gain, record_decision
from pipeline.run.original import make_original
from pipeline.run.plan import Plan, PlannedStep, make_plan
from pipeline.run.storage import storage_of
from pipeline.run.verdicts import budget_lines, in_vain, with_effects, with_timings

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.stage import Progress, Stage
    from pipeline.core.task import Task
    from pipeline.recipe import LoadedRecipe
    from pipeline.results.measurement import Measurement

LIBRARIES = ("numpy", "onnx", "onnxscript", "onnxsim", *(facts.package for facts in RUNTIMES.values()))


@dataclass
class Run:
    """One run of a loaded recipe into a folder. Without `test` the test split is left alone, for while one chooses.

    `command` is what run.json says of how to resume it.
    """

    loaded: LoadedRecipe
    folder: Path
    store: Store
    seed: int = 0
    progress: Progress = field(default_factory=SilentProgress)
    test: bool = True
    command: str = field(default="", kw_only=True)
    rows: list[Row] = field(default_factory=list)
    candidates: list[ChainFile] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    measurement: Measurement | None = None
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def execute(self) -> RunReport:
        """Run all steps, judge them, take the final test, and write run.json and the report after each step.

        Raises InputError when another run has the folder; SecateurError of the step that failed, after run.json says
        so; KeyboardInterrupt and Interrupted likewise.
        """
        make_folder(self.folder, "the run's folder", "give another with --out")
        make_folder(self.store.root, "the store", "set SECATEUR_STORE to another folder")
        _ = self.threads  # refuses a number of threads that is none before anything is done
        busy = f"another run is writing into {self.folder}: wait for it, or give --out"
        introduce_process(printable_text(f"the run of {self.loaded.path.name} into {self.folder}"))
        try:
            with file_lock(self.folder / LOCK_FILE, busy):
                return self._execute()
        finally:
            self.store.release()

    def _execute(self) -> RunReport:
        started = time.monotonic()
        try:
            with disk_errors(self.folder, self.store.root):
                self._steps()
                report = self._finished(time.monotonic() - started)
                self._write(report)
        except BaseException as error:
            # A library may have made an error of its own of an interruption.
            by_hand = not isinstance(error, Exception) or interruption.received()
            status, text = ("interrupted", "") if by_hand else ("failed", str(error))
            with suppress(OSError, ResourceError):  # the disk may be full: the error itself is what has to be told
                self._write(self._report(status, time.monotonic() - started, text))
            raise
        return report

    @cached_property
    def plan(self) -> Plan:
        """What will run; the ingredients are kept in the folder so that the next plan can say what changed."""
        previous = previous_ingredients(self.folder, self.progress.note)
        return make_plan(self.loaded, self.store, self.seed, previous)

    @cached_property
    def task(self) -> Task:
        """What the network is for, with its data, loaded on first use; what should be known of them is said then."""
        found = load_task(self.loaded.recipe.task, self.loaded.recipe.data)
        drop = self.loaded.recipe.budget.drop if self.loaded.recipe.budget else None
        if drop and (fault := drop.fault(found.judged.unit)):
            raise InputError(f"budget: {fault}, since the task is judged by {found.judged.name}")
        fixing = [each.kind for each in self.loaded.recipe.stages if each.fixes_sizes]
        if found.sizes.axes and fixing:
            raise InputError(
                f"{fixing[0]} makes files of fixed sizes, and the task leaves some open (dynamic): leave one of them "
                "away, or quantize after training, with {kind: quantize}"
            )
        for note in found.data.notes:
            self.progress.note(f"data: {note}")
        return found

    @cached_property
    def threads(self) -> Threads:
        """What training and accuracy use; timing uses what the target says."""
        return usable_threads()

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator of this run's files."""
        return Evaluator(
            store=self.store,
            task=lambda: self.task,
            data_identity=self.plan.data_identity,
            target=self.loaded.recipe.target,
            threads=self.threads.number,
            progress=self.progress,
        )

    def _steps(self) -> None:
        known_as(self.loaded.recipe.model.definition)
        text = json.dumps([step.ingredients for step in self.plan.steps], indent=1, sort_keys=True, allow_nan=False)
        write_whole(self.folder / PLAN_FILE, text + "\n")
        for step in self.plan.steps:
            began = time.monotonic()
            self.progress.note(f"{step.index}/{len(self.plan.steps) - 1} {step.label}: {step.reason}")
            for line in step.remarks.lines():
                self.progress.note(line)
            with user_code_errors(f"{step.label} failed"):
                made = self._obtain(step, began)
                self._collect(step, self._result(step), began, made=made)
            self._write(self._report("running", 0.0))

    def original(self) -> Artifact:
        """Return the network that the recipe starts from, out of the store or made for it; nothing else is run."""
        make_folder(self.store.root, "the store", "set SECATEUR_STORE to another folder")
        known_as(self.loaded.recipe.model.definition)
        step = self.plan.steps[0]
        with user_code_errors(f"{step.label} failed"):
            self._obtain(step, time.monotonic())
            return self._result(step)

    def _obtain(self, step: PlannedStep, began: float) -> bool:
        """Have the store hold what a step makes; return whether it was made now."""
        make = partial(self._make, step, began)
        return self.store.obtain(step.key, make, self.progress.note, what=step.label, unfit=self._unfit)

    def _result(self, step: PlannedStep) -> Artifact:
        """Return the artifact after a step; a stage that only looked or was skipped leaves the one before."""
        if not (self.store.folder(step.key) / ARTIFACT_FILE).exists():
            return self.artifacts[-1]
        artifact = self.store.read(step.key)
        if step.stage is None:
            self._check_stored(artifact)
        return artifact

    def _unfit(self, folder: Path) -> str:
        """Say why a stored entry is not what this step would make: it was made from another file, or is not whole."""
        try:
            record = read_record(folder)
            if record and self.artifacts and record.parent_digest != self.artifacts[-1].digest:
                return "it was made from a file other than the one now before it"
            if changed := changed_since(folder):
                return f"{first_names(changed)} changed, which its code reads"
            return "" if is_listed(folder) else self._unfit_network(folder)
        except (ValidationError, ResourceError) as error:
            return str(error).splitlines()[0]

    def _unfit_network(self, folder: Path) -> str:
        """Say why a network does not load to the same one each time, as earlier versions could store it."""
        if not (folder / ARTIFACT_FILE).exists() or (artifact := read_artifact(folder)).form != "torch":
            return ""
        from pipeline.network.stored import loads_alike

        return "" if loads_alike(artifact) else "it lacks state that the network has outside its state_dict"

    def _make(self, step: PlannedStep, began: float, folder: Path) -> None:
        _use_threads(self.threads.number)
        if step.stage is None:
            recipe = self.loaded.recipe
            inputs = self.task.inputs(recipe.target.batch)
            write_artifact(make_original(recipe.model, self.task, inputs, self.seed, folder, self.progress), folder)
        elif step.made == step.key:
            self._stage(step, step.stage, began, folder)
        else:
            self._stage_for_gain(step, step.stage, folder)

    def _stage(self, step: PlannedStep, stage: Stage, began: float, folder: Path) -> None:
        """Let a stage work in `folder` and write down what it did and made, whatever becomes of it then."""
        given = self.artifacts[-1]
        context = Context(
            folder=folder,
            seed=self.seed,
            target=self.loaded.recipe.target,
            original=self.artifacts[0],
            task=lambda: self.task.for_inputs(given.inputs),
            candidates=tuple(self.candidates),
            progress=self.progress,
        )
        outcome = stage.run(given, context)
        interruption.check()  # a stage that caught it may have left something out
        record = StageRecord(
            kind=stage.kind,
            revision=stage.revision,
            config={name: value for name, value in step.ingredients["config"].items() if name != "on_no_gain"},
            parent_digest=given.digest,
            seconds=time.monotonic() - began,
            changed=dict(outcome.changed),
        )
        write_record(record, folder)
        if outcome.form is not None:
            artifact = Artifact(
                form=outcome.form,
                folder=folder,
                digest=payload_digest(outcome.form, folder),
                inputs=outcome.inputs,
                outputs=outcome.outputs,
                lineage=(*given.lineage, record),
            )
            write_artifact(artifact, folder)
            lasting_changes(step.label, [*self.artifacts, artifact], self.evaluator)  # before the store has it

    def _stage_for_gain(self, step: PlannedStep, stage: Stage, folder: Path) -> None:
        """Store what the stage makes as if nothing were asked of it, then decide whether it stays in the chain."""
        work = partial(self._stage, step, stage, time.monotonic())
        self.store.obtain(step.made, work, self.progress.note, what=step.label, unfit=self._unfit)
        began = time.monotonic()
        made = self.store.read(step.made)
        files = self.evaluator.exported_file(self.artifacts[-1]), self.evaluator.exported_file(made)
        target = self.loaded.recipe.target
        shapes = self.task.first_shapes(target.batch)
        found = gain(*files, stage, target, seed=self.seed, progress=self.progress, shapes=shapes)
        record_decision(made, found, folder, config=step.ingredients["config"], seconds=time.monotonic() - began)

    def _check_stored(self, artifact: Artifact) -> None:
        """Check a stored network against the data that it is run on now, as a new one is checked. Raises InputError."""
        inputs = self.task.inputs(self.loaded.recipe.target.batch)
        classes = (len(self.task.data.classes),) if self.task.images else artifact.outputs[0].shape[1:]
        shapes = [[spec.shape[1:] for spec in specs] for specs in (artifact.inputs, inputs)]
        if shapes[0] != shapes[1] or artifact.outputs[0].shape[1:] != classes:
            from pipeline.network.soundness import check_network
            from pipeline.network.stored import load_network

            check_network(load_network(artifact), self.task, inputs)

    def _collect(self, step: PlannedStep, artifact: Artifact, began: float, *, made: bool) -> None:
        """Judge the artifact and add its row, its candidate and its links in the run folder."""
        found = self.evaluator.evaluate(artifact)
        entry = self.store.folder(step.key)
        name = f"{step.index:02d}-{step.label.replace(' ', '-').replace('#', '')}"
        link_entry(entry, self.folder / "stages" / name)
        record = read_record(entry)
        self.artifacts.append(artifact)
        self.candidates.append(ChainFile(label=step.label, artifact=self.evaluator.exported_file(artifact)))
        if artifact.form == "torch":
            self.candidates.append(ChainFile(label=step.label, artifact=artifact))
        if (entry / MEASUREMENT_FILE).exists():
            self.measurement = load_measurement(entry / MEASUREMENT_FILE)
        row = Row(
            index=step.index,
            label=step.label,
            kind=step.stage.kind if step.stage else "original",
            makes_file=step.stage is None or step.stage.makes_file,
            config=step.ingredients.get("config", {}),
            form=artifact.form,
            digest=self.evaluator.exported_file(artifact).digest,
            artifact=artifact.digest,
            folder=f"stages/{name}",
            cached=not made,
            seconds=record.seconds if record and not made else time.monotonic() - began,
            changed={
                **(record.changed if record else {}),
                **lasting_changes(step.label, self.artifacts, self.evaluator),
            },
            **found.model_dump(),
        )
        if self.rows and (effects := in_vain(self.rows[-1], row)):
            self.progress.note(f"{step.label}: {effects_sentence(effects)}")
        self.rows.append(row)

    def _finished(self, seconds: float) -> RunReport:
        report = self._report("finished", seconds)
        result = last_readable((artifact.form for artifact in self.artifacts), self.loaded.recipe.target.runtime)
        final = self.evaluator.final_test(self.artifacts[0], self.artifacts[result]) if self.test else None
        report = report.model_copy(update={"final": final})
        ends = report.rows[0], report.rows[result]
        lines = budget_lines(self.loaded.recipe.budget, *ends, report.target, self.task.judged)
        file = self.evaluator.exported_file(self.artifacts[result])
        stored = storage_of(*ends, file, self.progress)
        report = report.model_copy(update={"budget": lines, "storage": stored})
        options = self.loaded.recipe.stages[-1].bundle_options()
        return report if options is None else self._bundled(report, BundleOptions.model_validate(options))

    def _bundled(self, report: RunReport, options: BundleOptions) -> RunReport:
        """Write the edge bundle of a finished run, and say so in the report."""
        from pipeline.bundle.assemble import content_of
        from pipeline.bundle.place import write_beside_run

        record = write_beside_run(content_of(report, self.folder, self.task, options, self.progress))
        return report.model_copy(update={"bundle": record})

    def _report(self, status: str, seconds: float, error: str = "") -> RunReport:
        rows = tuple(self.rows)
        if self.measurement:
            rows = with_timings(rows, self.measurement)
        metric = self.task.judged if rows else ACCURACY
        rows = with_effects(rows, self.measurement, self.loaded.recipe.target, metric)
        return RunReport.model_validate(
            {
                "name": self.loaded.recipe.name,
                "recipe_file": printable_text(self.loaded.path.name),  # JSON holds no bytes that are no text
                "recipe_folder": printable_text(str(self.loaded.path.parent)),
                "recipe": self.loaded.raw,
                "recipe_digest": self.loaded.digest,
                "data": self._data() if self.rows else {},
                **({"task": task_facts(self.task)} if self.rows else {}),
                "target": self.loaded.recipe.target,
                "seed": self.seed,
                "threads": self.threads.number,
                "threads_from": self.threads.source,
                "versions": versions(),
                "machine": self.plan.machine if self.rows else {},
                "started": self.started,
                "seconds": seconds,
                "status": status,
                "error": error,
                "command": printable_text(self.command),
                "rows": rows,
            }
        )

    def _data(self) -> dict[str, Any]:
        """Return what the data are; where the result takes images of another size than the original, also that."""
        result = self.task.for_inputs(self.artifacts[-1].inputs)
        other = {} if result is self.task else {"result_input_shape": list(result.inputs(1)[0].shape[1:])}
        return {**summarise_data(self.task), **other, **self.plan.data_identity}

    def _write(self, report: RunReport) -> None:
        from pipeline.report import write_report

        write_whole(self.folder / RUN_FILE, report.model_dump_json(indent=1) + "\n")
        if report.status != "running":
            write_report(report, self.folder)


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python and of the libraries that make and run the files."""
    return {"secateur": __version__, "python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def _use_threads(threads: int) -> None:
    """Let torch use the cores that this process may use."""
    # Read when torch is loaded: threads that wait must not burn cores that other programs need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    torch.set_num_threads(threads)
