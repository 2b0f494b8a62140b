"""The three questions that a report answers first: is it faster, is it still right, is it smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.task import ACCURACY
from pipeline.report import numbers
from pipeline.report.run import rows
from pipeline.report.run.gains import Tone, produced_rows, result, timed_target, timing

if TYPE_CHECKING:
    from pipeline.core.task import MetricFacts
    from pipeline.results.run import BudgetLine, FinalTest, Interval, RunReport, TaskFacts


@dataclass(frozen=True)
class Answer:
    """One question with its answer: a number, a sentence around it, and the line of the budget that asks for it."""

    question: str
    number: str
    sentence: str
    tone: Tone
    budget: BudgetLine | None = None


def answers(report: RunReport) -> tuple[Answer, ...]:
    """Return the three answers; an empty run has none."""
    return (_faster(report), _right(report), _smaller(report)) if report.rows else ()


def banner(report: RunReport) -> str:
    """Return what to say first about a run that did not finish or ships a far file, or nothing."""
    kept = f"{numbers.plural(len(report.rows), 'row')} so far {'is' if len(report.rows) == 1 else 'are'} kept and valid"
    why = f": {report.error.rstrip('.')}" if report.error else ""
    resume = f"resume with: {report.command}" if report.command else "run the recipe again to resume."
    return {
        "finished": _far(report),
        "running": f"Still running{why}. The {kept}.",
        "interrupted": f"Interrupted{why}. The {kept}; {resume}",
        "failed": f"Failed{why}. The {kept}.",
    }[report.status]


def _far(report: RunReport) -> str:
    """Name the stages whose files are far from their float files; what follows them is so as well."""
    rows = [row for row in produced_rows(report) if row.nearness and row.nearness.decision == "kept"]
    named = "; ".join(f"row {row.index} ({row.label}) is {row.nearness.text}" for row in rows if row.nearness)
    return f"Not the same network: {named}. It was kept because the recipe says on_far: keep." if named else ""


def standing(report: RunReport) -> str:
    """Return the state of the run and of its budget in a few words."""
    verdicts = [line.verdict for line in report.budget]
    if not verdicts:
        return report.status
    worst = next((v for v in ("missed", "cannot tell") if v in verdicts), "met")
    return f"{report.status}, budget {'not certain' if worst == 'cannot tell' else worst}"


def difference(final: FinalTest, task: TaskFacts) -> str:
    """Write the paired difference on the test split: "+0.46 points [+0.1, +0.8] on the same 656 images"."""
    gap, metric = final.difference, task.judged
    value = f"{numbers.score_change(gap.value, metric)} {numbers.score_change_unit(metric)}"
    return f"{value} {numbers.score_interval(gap, metric)} on the same {samples(final.result.images, task)}"


def samples(number: int, task: TaskFacts, split: str = "") -> str:
    """Write a number of samples: images of a classifier, samples of another task."""
    return numbers.plural(number, f"{split} {task.sample}".strip())


def metrics(final: FinalTest, task: TaskFacts) -> tuple[tuple[str, str, str, str], ...]:
    """Return name, original, result and change (of shares in points) of each metric of the final test."""
    known, new = {each.name: each for each in task.metrics}, final.result.metrics
    found = []
    for name, old in final.original.metrics.items():
        facts = known.get(name, ACCURACY)
        unit = "" if facts.is_share else f" {facts.unit}"
        change = f"{numbers.score_change(new[name] - old, facts)}{unit}"
        found.append((numbers.metric_name(name), numbers.score(old, facts), numbers.score(new[name], facts), change))
    return tuple(found)


def judgement(final: FinalTest, task: TaskFacts) -> str:
    """Write what the paired interval allows to say about the score on the test split."""
    direction = _direction(final.difference, task.judged)
    if not direction:
        return f"No difference that {samples(final.result.images, task, 'test')} can show"
    if task.judged.name == ACCURACY.name:
        return f"{'More' if direction > 0 else 'Less'} accurate than the original, beyond chance"
    return f"{'Better' if direction > 0 else 'Worse'} than the original, beyond chance"


def _direction(gap: Interval, metric: MetricFacts) -> int:
    """Return 1 where a difference is one for the better for certain, -1 for the worse, 0 where neither is."""
    better = 1 if metric.higher_is_better else -1
    return better if gap.low > 0 else -better if gap.high < 0 else 0


def _faster(report: RunReport) -> Answer:
    """Answer from the last row that was timed in the target runtime."""
    question = "Is it faster?"
    where = f"{rows.timed_place(report)}, batch {report.target.batch}"
    budget = _budget(report, "latency")
    before = timing(report.rows[0], timed_target(report))
    taken = [(row, t) for row in produced_rows(report)[1:] if (t := timing(row, timed_target(report)))]
    found = [(row, t, t.speedup) for row, t in taken if t.speedup]
    if not found or before is None:
        return Answer(question, numbers.DASH, f"No file has been compared in {where} yet.", "plain", budget)
    row, after, factor = found[-1]
    change = f"{numbers.milliseconds(before.milliseconds.value)} {numbers.ARROW} "
    change += f"{numbers.milliseconds(after.milliseconds.value)} in {where}. "
    change += f"{numbers.level(factor)} interval of the speedup {numbers.bounds(factor)}."
    if row is not result(report):
        change += f" Row {row.index} ({row.label}) is the last file timed there."
    if after.contended:
        change += " Contended: wall and CPU time disagree."
    return Answer(question, *_speed(factor, contended=after.contended, sentence=change), budget=budget)


def _speed(factor: Interval, *, contended: bool, sentence: str) -> tuple[str, str, Tone]:
    """Return number, sentence and tone for a speedup with its interval."""
    if factor.low > 1:
        return f"{numbers.ratio(factor.value)} faster", sentence, "unsure" if contended else "better"
    if factor.high < 1:
        return f"{numbers.ratio(1 / factor.value)} slower", sentence, "unsure" if contended else "worse"
    return numbers.ratio(factor.value), f"No measurable change: {sentence}", "unsure"


def _right(report: RunReport) -> Answer:
    """Answer from the final test, or from validation while there is none."""
    metric = report.task.judged
    question = "Is it still accurate?" if metric.name == ACCURACY.name else "Is it still as good?"
    budget = _budget(report, "accuracy_drop") or _budget(report, "score_drop")
    final = report.final
    if final is None:
        return _right_so_far(report, question, budget)
    gap = final.difference
    sentence = (
        f"{judgement(final, report.task)}: {_named(metric)}{numbers.score(final.original.judged, metric)} "
        f"{numbers.ARROW} {numbers.score(final.result.judged, metric)}, paired {numbers.level(gap)} interval "
        f"{numbers.score_interval(gap, metric)} {numbers.score_change_unit(metric)}."
    )
    tones: dict[int, Tone] = {-1: "worse", 0: "plain", 1: "better"}
    return Answer(question, _change(gap.value, metric), sentence, tones[_direction(gap, metric)], budget)


def _named(metric: MetricFacts) -> str:
    """Return the metric's name in front of its values, where it is not accuracy."""
    return "" if metric.name == ACCURACY.name else f"{metric.name} "


def _change(change: float, metric: MetricFacts) -> str:
    return f"{numbers.score_change(change, metric)} {numbers.score_change_unit(metric)}"


def _right_so_far(report: RunReport, question: str, budget: BudgetLine | None) -> Answer:
    before, metric = report.rows[0].validation, report.task.judged
    judged = [(row, row.validation) for row in produced_rows(report)[1:] if row.validation]
    if before is None or not judged:
        return Answer(question, numbers.DASH, "No stage has been evaluated yet.", "plain", budget)
    row, after = judged[-1]
    sentence = (
        f"On validation after row {row.index} ({row.label}): {_named(metric)}{numbers.score(before.judged, metric)} "
        f"{numbers.ARROW} {numbers.score(after.judged, metric)}. The test split has not been used."
    )
    return Answer(question, _change(after.judged - before.judged, metric), sentence, "plain", budget)


def _smaller(report: RunReport) -> Answer:
    """Answer from the size of the result."""
    question = "Is it smaller?"
    budget = _budget(report, "size")
    first = report.rows[0]
    last = result(report)
    if last is first or not first.size_bytes or not last.size_bytes:
        return Answer(question, numbers.DASH, "The size of no file is known yet.", "plain", budget)
    factor = first.size_bytes / last.size_bytes
    sentence = f"{numbers.size(first.size_bytes)} {numbers.ARROW} {numbers.size(last.size_bytes)} on disk, "
    sentence += f"{numbers.size(first.gzip_bytes)} {numbers.ARROW} {numbers.size(last.gzip_bytes)} with gzip."
    sentence += f" {storage(report)}" if report.storage else ""
    if factor >= 1:
        return Answer(
            question, f"{numbers.ratio(factor)} smaller", sentence, "better" if factor > 1 else "plain", budget
        )
    return Answer(question, f"{numbers.ratio(1 / factor)} larger", sentence, "worse", budget)


def storage(report: RunReport) -> str:
    """Say what the result takes packed, and that a runtime needs as much memory as without; empty where not packed."""
    found = report.storage
    if found is None:
        return ""
    less = numbers.ratio(found.original / found.packed)
    others = f"{numbers.size(found.zlib)} with zlib, bound {numbers.size(found.bound)}"
    packed = f"{numbers.size(found.packed)} packed, {less} less than the original file ({others})"
    return f"{packed}; {numbers.size(found.in_memory)} of weights in memory."


def _budget(report: RunReport, name: str) -> BudgetLine | None:
    return next((line for line in report.budget if line.name == name), None)
