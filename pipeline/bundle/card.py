"""MODEL_CARD.md of a bundle: what the network is, how it was made, what was measured, and under which terms it stands.

Source: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. What is not known is said to be not known.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.bundle.manifest import manifest_of
from pipeline.bundle.on_device.infer import load_preprocessing
from pipeline.bundle.on_device.self_test import EXPECTED
from pipeline.bundle.requirements import file_name
from pipeline.bundle.task_parts import task_facts
from pipeline.bundle.tolerance import FLOAT, far, is_exact, precision_of
from pipeline.core.printable import printable_text
from pipeline.core.store import read_artifact
from pipeline.report import numbers
from pipeline.results.bundle import NOT_STATED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from jinja2 import Template

    from pipeline.bundle.content import Content
    from pipeline.core.task import MetricFacts
    from pipeline.results.bundle import BundledAccuracy, Manifest
    from pipeline.results.run import Row, Score

FILE, TEMPLATE = "MODEL_CARD.md", "card.md.j2"
#: Letters that would be markup.
_ESCAPED = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[]|#"} | {"<": "&lt;", ">": "&gt;", "\n": " "})
#: How licences for non-commercial use are named.
_NON_COMMERCIAL = re.compile(r"\bNC\b|non-?\s?commercial", re.IGNORECASE)
_CLASSES_SHOWN = 30


def write_card(content: Content, folder: Path) -> None:
    """Write MODEL_CARD.md about the files that lie in `folder`."""
    (folder / FILE).write_text(_template().render(**facts(content, folder)), encoding="utf-8")


def facts(content: Content, folder: Path) -> dict[str, Any]:
    """Return everything that the card says, by the template's names."""
    manifest, report = manifest_of(content, folder, {}), content.report
    lineage = read_artifact(content.files[content.runtime].parent).lineage
    precision = precision_of(lineage)
    classes = content.task.data.classes
    return {
        "report": report,
        "manifest": manifest,
        "preprocessing": load_preprocessing(folder),
        "far": far(lineage),
        "precision": "single precision" if precision in FLOAT else precision,
        "is_float": precision in FLOAT,
        "is_exact": is_exact(lineage, content.runtime),
        "classes": classes[:_CLASSES_SHOWN],
        "more_classes": len(classes) - _CLASSES_SHOWN,
        "rows": chain(content),
        "files": [
            (path.relative_to(folder).as_posix(), path.stat().st_size) for path in sorted((folder / "model").iterdir())
        ],
        "requirements": {runtime: file_name(content, runtime) for runtime in content.files},
        "splits": [(name, report.data[name]) for name in ("train", "validation", "test") if name in report.data],
        "non_commercial": non_commercial(manifest),
        "samples_are_drawn": _are_drawn(folder),
        "not_stated": NOT_STATED,
        **_task_facts(content, manifest),
    }


def _task_facts(content: Content, manifest: Manifest) -> dict[str, Any]:
    """Return what the card says of any other task than classifying images."""
    if content.task.images is not None:
        return {"task": None}
    judged, facts = content.report.task.judged, task_facts(content)
    return {
        "task": content.report.task,
        "metric": {"name": judged.name, "facts": judged},
        "outputs": facts["outputs"],
        "code": facts["code"],
        "sample": "samples/0.png" if facts["image"] else "samples/0.npz",
        "scores": list(score_lines(content.report.task.metrics, manifest.accuracy)),
    }


def score_lines(metrics: Sequence[MetricFacts], found: BundledAccuracy) -> Iterator[tuple[str, ...]]:
    """Yield samples, metric, the original's score, this network's and the difference, those of the test first."""
    test, (before, after) = found.test, (found.validation_original, found.validation_result)
    for name, one, other in (("test", test and test.original, test and test.result), ("validation", before, after)):
        for metric in metrics if one and other else ():
            pair = [each.metrics[metric.name] for each in (one, other) if each]
            change = f"{numbers.score_change(pair[1] - pair[0], metric)} {numbers.score_change_unit(metric)}"
            if test and name == "test" and metric == metrics[0]:
                change += f" {numbers.score_interval(test.difference, metric)}"
            samples = f"{name}, {numbers.plural(one.images, 'sample')}" if one else name
            yield samples, metric.name, *(numbers.score(each, metric) for each in pair), change


def chain(content: Content) -> list[Row]:
    """Return the rows of the report that the default runtime's file went through, the original first."""
    digest = read_artifact(content.files[content.runtime].parent).digest
    rows = [row for row in content.report.rows if row.makes_file and not row.skipped]
    last = max((place for place, row in enumerate(rows) if row.digest == digest), default=len(rows) - 1)
    return rows[: last + 1]


def non_commercial(manifest: Manifest) -> list[str]:
    """Return which parts stand under a licence for non-commercial use, each with that licence."""
    parts = manifest.licences.model_dump()
    return [f"{part}: {licence}" for part, licence in parts.items() if _NON_COMMERCIAL.search(licence)]


def escape(text: object) -> str:
    """Make text safe inside a paragraph or a table cell."""
    return printable_text(str(text)).translate(_ESCAPED)


def accuracy(found: Score | None) -> str:
    """Write an accuracy with its 95 % interval as a proportion of that many images."""
    if found is None:
        return numbers.DASH
    low, high = numbers.wilson(found.judged, found.images)
    return f"{numbers.percent(found.judged)} [{100 * low:.1f}, {100 * high:.1f}]"


def judged_score(found: Score | None, metric: MetricFacts) -> str:
    """Write the metric that is judged."""
    return numbers.score(found.judged if found else None, metric)


def input_text(given: dict[str, Any]) -> str:
    """Write an input with its type and shape, without batch, and what the data have of sizes that are open."""
    opened = {int(axis): name for axis, name in given.get("dynamic", {}).items()}
    sizes = ", ".join(opened.get(axis, str(size)) for axis, size in enumerate(given["shape"]))
    known = ", ".join(f"{name} ({given['shape'][axis]} in the data)" for axis, name in opened.items())
    return f"{given['name']} ({given['dtype']} [{sizes}]{f'; open: {known}' if known else ''})"


def _are_drawn(folder: Path) -> bool:
    """Return whether the samples were made: then nobody knows their class."""
    samples = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))["samples"]
    return any(sample["made"] if "made" in sample else sample["label"] is None for sample in samples)


@cache
def _template() -> Template:
    """Load the template once. It is Markdown: what comes from outside is escaped by its own filter."""
    environment = Environment(  # noqa: S701 - Markdown, not HTML
        loader=PackageLoader("pipeline.bundle", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"escape": escape, "accuracy": accuracy, "score": judged_score, "shapes": input_text}
    for written in (numbers.bounds, numbers.count, numbers.milliseconds, numbers.plural, numbers.points, numbers.ratio):
        environment.filters[written.__name__] = written
    environment.filters |= {"bytes": numbers.size, "interval_in_points": numbers.points_interval}
    return environment.get_template(TEMPLATE)
