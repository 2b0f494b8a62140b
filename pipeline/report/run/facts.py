"""What a run was: machine, runtime, data and recipe as short lines, and nested details as plain key and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.dataset import SPLITS
from pipeline.core.printable import printable_json
from pipeline.report import numbers
from pipeline.report.run import rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.results.run import BundleRecord, Row, RunReport

Facts = tuple[tuple[str, str], ...]

_DIGEST_SHOWN = 12


def header(report: RunReport) -> Facts:
    """Return what stands at the top of a report: data, machine, runtime, versions, recipe."""
    target = report.target
    facts = (
        ("Data", _data(report.data)),
        *(("Of the data", str(note)) for note in report.data.get("notes", ())),
        ("Machine", machine(report.machine)),
        ("Runtime", f"{rows.place(target.runtime, target.threads)}, batch {target.batch}"),
        *_threads(report),
        ("Versions", ", ".join(f"{name} {version}" for name, version in report.versions.items()) or numbers.DASH),
        ("Recipe", f"{report.recipe_file}, digest {report.recipe_digest[:_DIGEST_SHOWN]}, seed {report.seed}"),
        ("Run", f"{_started(report)}, took {numbers.duration(report.seconds)}"),
    )
    return facts if report.bundle is None else (*facts, ("Bundle", bundle_facts(report.bundle)))


def _threads(report: RunReport) -> Facts:
    """Return what trained and evaluated; nothing for runs of earlier versions."""
    if report.threads is None:
        return ()
    return (("Training and accuracy", f"{numbers.plural(report.threads, 'thread')}, by {report.threads_from}"),)


def bundle_facts(record: BundleRecord, folder: Path = Path()) -> str:
    """Write where a run's edge bundle is, its size, and the digest by which it can be told from any other."""
    return f"{folder / record.archive}, {numbers.size(record.archive_bytes)}, {record.digest}"


def about(report: RunReport) -> tuple[str, ...]:
    """Return the few facts without which the numbers mean nothing, for one line under the title."""
    runtime, threads = report.target.runtime, report.target.threads
    version = report.versions.get(runtime)
    where = f"{runtime} {version}" if version else runtime
    model = report.machine.get("cpu_model")
    found = (str(model) if model else "", rows.place(where, threads), _data(report.data), _started(report))
    return tuple(text for text in found if text not in ("", numbers.DASH))


def machine(fingerprint: Mapping[str, Any]) -> str:
    """Write the CPU model and its instruction-set flags; the rest of the fingerprint stands in the details."""
    model = fingerprint.get("cpu_model")
    flags = fingerprint.get("isa", ())
    found = [str(model)] if model else []
    if flags:
        found.append(flags if isinstance(flags, str) else " ".join(map(str, flags)))
    return ", ".join(found) or numbers.DASH


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Facts:
    """Return nested JSON as lines with keys joined by dots.

    {"before": a, "after": b} becomes one line with an arrow, and a list of alike objects (a training history) one line
    for each of their keys.
    """
    found: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if _is_series(value):
            found.extend(flat({inner: [each[inner] for each in value] for inner in value[0]}, f"{name}."))
        elif isinstance(value, dict) and set(value) == {"before", "after"}:
            found.append((name, f"{plain(value['before'])} {numbers.ARROW} {plain(value['after'])}"))
        elif isinstance(value, dict) and value:
            found.extend(flat(value, f"{name}."))
        else:
            found.append((name, plain(value)))
    return tuple(found)


def _is_series(value: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    """Say whether a value is a list of objects that all have the same keys."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(each, dict) and each.keys() == value[0].keys() for each in value)
    )


def plain(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """Write one JSON value for a reader: floats in six digits, lists with commas, absent as a dash."""
    if value is None:
        return numbers.DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or "none"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def stage(row: Row) -> Facts:
    """Return everything about one row that the table leaves out."""
    return (
        ("kind", row.kind),
        ("form", row.form),
        ("folder", row.folder),
        ("digest", row.digest),
        ("took", numbers.duration(row.seconds) + (" (cached)" if row.cached else "")),
    )


def recipe_text(report: RunReport) -> str:
    """Return the whole recipe, defaults included, as indented JSON (which is YAML too)."""
    return printable_json(json.dumps(report.recipe, indent=2, ensure_ascii=False))


def _data(data: Mapping[str, Any]) -> str:
    counted = [f"{data[split]:,} {split}" for split in SPLITS if split in data]
    name = str(data.get("name", numbers.DASH))
    found = f"{name}: {', '.join(counted)}" if counted else name
    return found + "".join(
        f"; images of {before[-1]} x {before[-2]} pixels, of {after[-1]} x {after[-2]} for the result"
        for before, after in [(data.get("input_shape"), data.get("result_input_shape"))]
        if before and after
    )


def _started(report: RunReport) -> str:
    """Write when the run began: "2026-03-14 09:26:53 UTC"."""
    return report.started.replace("T", " ").replace("+00:00", " UTC")
