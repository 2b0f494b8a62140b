"""The result of `secateur compare` as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pipeline
from pipeline.core.partial import write_whole
from pipeline.core.paths import short_paths
from pipeline.report.drawing.template import load_template
from pipeline.report.latency import comparison_plot as plot
from pipeline.report.latency.comparison_terminal import WHAT, side_rows, speed
from pipeline.report.latency.gate import escaped
from pipeline.report.run import facts

if TYPE_CHECKING:
    from pathlib import Path

    from markupsafe import Markup

    from pipeline.results.comparison import Comparison, Side, Verdict
    from pipeline.results.measurement import Measurement

_TONES: dict[Verdict, str] = {"PASS": "better", "FAIL": "worse", "INCONCLUSIVE": "unsure", "INCOMPARABLE": "unsure"}
_MEANING: dict[Verdict, str] = {
    "PASS": "The candidate is not slower than the baseline by more than the margin.",
    "FAIL": "The candidate is slower than the baseline by more than the margin.",
    "INCONCLUSIVE": "Neither could be shown: too little time, or too much other load.",
    "INCOMPARABLE": "The two could not be measured on equal terms.",
}


def write_comparison_page(found: Comparison, measurement: Measurement, folder: Path) -> Path:
    """Write comparison.html and comparison.md into a folder; return the page.

    Raises:
        ResourceError: they cannot be written.
    """
    write_whole(folder / "comparison.md", markdown(found))
    write_whole(folder / "comparison.html", render(found, measurement))
    return folder / "comparison.html"


def render(found: Comparison, measurement: Measurement) -> str:
    """Return the page. Everything that comes from the files and the device is escaped."""
    return load_template("comparison.html.j2").render(
        found=found,
        version=pipeline.__version__,
        tone=_TONES[found.verdict],
        meaning=_MEANING[found.verdict],
        speed=speed(found),
        what=WHAT[found.metric],
        pictures=_pictures(found, measurement),
        rows=side_rows(found),
        sides=[(name, _facts(side)) for name, side in (("Baseline", found.baseline), ("Candidate", found.candidate))],
        machine=facts.flat(found.candidate.fingerprint),
        noise=facts.flat(found.noise.model_dump(exclude={"conditions"})),
        conditions=found.noise.conditions,
        protocol=facts.flat(found.protocol.model_dump()),
    )


def markdown(found: Comparison) -> str:
    """Return the verdict, the reasons and the two files side by side."""
    lines = [f"### {found.verdict}: {escaped(found.name)}, {escaped(speed(found))}", ""]
    lines += [f"- {each.code}: {escaped(each.text)}" for each in found.reasons]
    labels = [side.label for side in (found.baseline, found.candidate)]
    names = [escaped(short_paths(labels)[label]) for label in labels]
    lines += ["", f"| | {names[0]} | {names[1]} | ratio |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in side_rows(found)]
    return "\n".join(lines) + "\n"


def _pictures(found: Comparison, measurement: Measurement) -> list[tuple[Markup, Markup]]:
    """Return every drawing wide and narrow; none where there are no rounds."""
    drawn = [
        tuple(plot.ratios(found, measurement, wide=wide) for wide in (True, False)),
        tuple(plot.distributions(measurement, "wall", wide=wide) for wide in (True, False)),
        tuple(plot.distributions(measurement, "cpu", wide=wide) for wide in (True, False)),
    ]
    return [(wide, narrow) for wide, narrow in drawn if wide]


def _facts(side: Side) -> tuple[tuple[str, str], ...]:
    names = {"path", "digest", "runtime", "runtime_version", "threads", "device", "input_shapes", "options"}
    return facts.flat(side.model_dump(include=names))
