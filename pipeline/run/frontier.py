"""Runs a recipe once for each of several latencies, so that score and time can be weighed against each other."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError, StageError, UnreachableError
from pipeline.core.partial import write_whole
from pipeline.core.paths import kind_of, make_folder
from pipeline.core.reading import read_value
from pipeline.core.units import factor_or_duration_text, parse_part_or_duration
from pipeline.recipe import load_values
from pipeline.report.latency.frontier import write_frontier_page
from pipeline.report.run import gains
from pipeline.results.frontier import FRONTIER_FILE, Frontier, FrontierFile, FrontierPoint, mark_pareto
from pipeline.results.latency_target import LATENCY, LatencyTarget
from pipeline.results.run_folder import PLAN_FILE, RUN_FILE, previous_ingredients, read_run
from pipeline.run.plan import make_plan
from pipeline.run.runner import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress
    from pipeline.core.store import Store
    from pipeline.recipe import LoadedRecipe
    from pipeline.results.frontier import Status
    from pipeline.results.run import Interval, Row, RunReport


@dataclass(frozen=True)
class Asked:
    """One target as it is written, and the recipe with it."""

    text: str
    loaded: LoadedRecipe


def parse_targets(texts: Sequence[str]) -> tuple[str, ...]:
    """Return targets as a recipe writes them, each once and in the order given: 0.5x, 2.5ms.

    Raises:
        InputError: there is none, or one is neither a factor below 1x nor a time.
    """
    found = []
    for text in texts:
        try:
            found.append(factor_or_duration_text(parse_part_or_duration(text.strip())))
        except ValueError as error:
            raise InputError(f"latency: {error}") from error
    if not found:
        raise InputError("latency: found nothing, expected one or more: 0.7x,0.5x,0.35x")
    return tuple(dict.fromkeys(found))


def target_stage(loaded: LoadedRecipe, stage: int | None) -> int:
    """Return the place, from 0, of the `prune` stage whose target is to be set: the only one that has a target.

    Raises:
        InputError: there is none or more than one, or `stage` is none of them.
    """
    places = [at for at, each in enumerate(loaded.recipe.stages) if each.aims_at_cost]
    listed = ", ".join(f"stages.{at}" for at in places)
    if not places:
        raise InputError(
            f"{loaded.path.name} has no prune stage with a target, expected one: "
            "{kind: prune, target: {latency: 0.5x}}"
        )
    if stage is None and len(places) > 1:
        raise InputError(
            f"{loaded.path.name} has several prune stages with a target, at {listed}: say which with "
            "--stage, by its number"
        )
    if stage is not None and stage not in places:
        raise InputError(f"stage: found {stage}, allowed: {listed}, a prune stage with a target")
    return places[0] if stage is None else stage


def asked_points(load: Callable[[Sequence[str]], LoadedRecipe], texts: Sequence[str], stage: int) -> tuple[Asked, ...]:
    """Return the recipe with each target; `load` reads it with overrides.

    Raises RecipeError when it is not valid with one of them.
    """
    return tuple(Asked(text, load([f"stages.{stage}.target={{latency: {text}}}"])) for text in texts)


@dataclass
class FrontierRun:
    """Runs for several targets into `folder`, one after the other, with one store; `found` grows as they finish."""

    asked: Sequence[Asked]
    stage: int
    folder: Path
    store: Store
    seed: int
    progress: Progress
    #: What run.json says of how to resume each run.
    command: str = ""
    #: Reports of finished runs by target, each of which is checked once.
    known: dict[str, RunReport | None] = field(default_factory=dict, init=False)

    def execute(self) -> Frontier:
        """Run what is not finished yet; frontier.json and frontier.html are written after each point.

        Points that an earlier call finished of the same recipe stay, and so does the original's time that they count
        from, whatever is asked for now.

        A target that cannot be reached, or a run whose stage fails, is a point that says so, and the others go on.

        Raises:
            SecateurError: of all other kinds: bad input, a device that is lost. What was finished is kept.
        """
        make_folder(self.folder, "the frontier's folder", "give another with --out")
        self.known.clear()
        found = self._kept()
        self.write(found)
        for number, each in enumerate(self.asked, 1):
            self.progress.note(f"target {number}/{len(self.asked)}: {each.text}")
            found = self._with(found, each)
            self.write(found)
        return found

    def write(self, found: Frontier) -> None:
        """Write the record and its page."""
        write_whole(self.folder / FRONTIER_FILE, found.model_dump_json(indent=1) + "\n")
        write_frontier_page(found, self.folder)

    def _kept(self) -> Frontier:
        """Return what an earlier call found, its points that still hold; empty where there are none."""
        file = self.folder / FRONTIER_FILE
        if kind_of(file) != "a file":
            return self._empty()
        try:
            before = read_value(file, Frontier, "the record of a frontier")
        except InputError as error:
            self.progress.note(f"points that are not asked for now are left out: {error}")
            return self._empty()
        if (before.stage, before.target, before.seed) != (self.stage, self.asked[0].loaded.recipe.target, self.seed):
            return self._empty()
        points = tuple(each for each in before.points if each.status == "finished" and self._holds(each.target))
        return mark_pareto(before.model_copy(update={"points": points})) if points else self._empty()

    def _holds(self, target: str) -> bool:
        """Say whether the recipe with a target of the record has a finished run as it is now."""
        try:
            return (target,) == parse_targets([target]) and self._finished(self._again(target)) is not None
        except InputError:  # a damaged record
            return False

    def _again(self, target: str) -> Asked:
        """Return the recipe with a target that may not be asked for now."""
        if found := next((each for each in self.asked if each.text == target), None):
            return found
        first = self.asked[0].loaded
        values = deepcopy(first.raw)
        values["stages"][self.stage]["target"] = {"latency": target}
        return Asked(target, replace(load_values(values, first.path.parent), path=first.path))

    def _with(self, found: Frontier, asked: Asked) -> Frontier:
        """Return the frontier with one more point."""
        name = asked.text
        others = tuple(each for each in found.points if each.target != name)
        try:
            report = self._finished(asked)
            if report:
                self.progress.note(f"{name}: finished before, in {self.folder / name}")
            report = report or self._run(asked)
        except (UnreachableError, StageError) as error:
            status: Status = "unreachable" if isinstance(error, UnreachableError) else "failed"
            self.progress.note(f"{name}: {status}: {error}")
            point = FrontierPoint(target=name, folder=name, status=status, why=str(error))
            return mark_pareto(found.model_copy(update={"points": (*others, point)}))
        original = found.original if found.original.score else file_of(report, report.rows[0])
        points = (*others, point_of(report, name, self.stage, original))
        return mark_pareto(found.model_copy(update={"points": points, "original": original, "task": report.task}))

    def _run(self, asked: Asked) -> RunReport:
        folder, command = self.folder / asked.text, self.command
        return Run(asked.loaded, folder, self.store, self.seed, self.progress, test=False, command=command).execute()

    def _finished(self, asked: Asked) -> RunReport | None:
        """Return what a finished run found whose recipe, data, machine and versions are those of now."""
        if asked.text not in self.known:
            self.known[asked.text] = self._checked(asked)
        return self.known[asked.text]

    def _checked(self, asked: Asked) -> RunReport | None:
        folder = self.folder / asked.text
        if not (folder / RUN_FILE).is_file() or not (folder / PLAN_FILE).is_file():
            return None
        try:
            report, _ = read_run(folder)
        except InputError as error:
            self.progress.note(f"{asked.text}: run again, since what it found cannot be read: {error}")
            return None
        if report.status != "finished" or report.recipe_digest != asked.loaded.digest or report.final is not None:
            return None
        before = previous_ingredients(folder, self.progress.note)
        now = make_plan(asked.loaded, self.store, self.seed).steps
        if before != json.loads(json.dumps([step.ingredients for step in now], allow_nan=False)):
            return None
        return report

    def _empty(self) -> Frontier:
        loaded = self.asked[0].loaded
        return Frontier(
            name=loaded.recipe.name,
            recipe_file=loaded.path.name,
            stage=self.stage,
            target=loaded.recipe.target,
            seed=self.seed,
        )


def file_of(report: RunReport, row: Row) -> FrontierFile:
    """Return what a run says of one file, timed in the target's runtime."""
    taken = gains.timing(row, report.target)
    milliseconds = taken.milliseconds if taken else None
    return FrontierFile(milliseconds=milliseconds, score=row.validation, size_bytes=row.size_bytes)


def point_of(report: RunReport, target: str, stage: int, original: FrontierFile) -> FrontierPoint:
    """Return the point of a finished run, whose pruning is at `stage` of its recipe, beside the frontier's original."""
    row, first = gains.result(report), report.rows[0]
    file, taken, aim = file_of(report, row), gains.timing(row, report.target), _aim(report, stage)
    share = _inverse(taken.speedup) if taken and taken.speedup else None
    milliseconds = file.milliseconds
    if share and original.milliseconds:
        milliseconds = share.times(original.milliseconds.value)
    elif aim:
        milliseconds = aim.ratio.times(aim.whole_ms.value)
    return FrontierPoint(
        target=target,
        folder=target,
        milliseconds=milliseconds,
        score=file.score,
        size_bytes=file.size_bytes,
        ratio=aim.ratio if aim else None,
        asked_ratio=aim.factor if aim else None,
        met=aim.met if aim else None,
        original_ratio=share,
        change=file.score.judged - first.validation.judged if file.score and first.validation else None,
    )


def _aim(report: RunReport, stage: int) -> LatencyTarget | None:
    found = report.rows[stage + 1].changed.get(LATENCY)
    return LatencyTarget.model_validate(found) if found else None


def _inverse(interval: Interval) -> Interval:
    ends = {"value": 1 / interval.value, "low": 1 / interval.high, "high": 1 / interval.low}
    return interval.model_copy(update=ends)
