"""manifest.json of a bundle: what is known of the run and its files, without clock and paths of this machine."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.bundle.licences import data_licence, weights_licence
from pipeline.bundle.selection import default_runtime, shipping, stored
from pipeline.core.bundle import (
    MANIFEST_FILE,
    SIGNATURE_FILE,
    SUMS_FILE,
    BundledAccuracy,
    BundledFile,
    BundledLatency,
    Licences,
    Manifest,
)
from pipeline.core.measurement import load as load_measurement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.bundle.content import Content
    from pipeline.core.artifact import StageRecord
    from pipeline.core.bundle import DeviceRuntime
    from pipeline.core.run import Row

MEASUREMENT_FILE = "measurement.json"
EXPECTED = "samples/expected.json"


def write_manifest(content: Content, folder: Path) -> str:
    """Write manifest.json and SHA256SUMS over the files in `folder`; return the digest of SHA256SUMS."""
    files = {name: _described(folder / name) for name in names_in(folder)}
    (folder / MANIFEST_FILE).write_text(as_json(manifest_of(content, folder, files)), encoding="utf-8")
    sums = {name: entry.sha256 for name, entry in files.items()} | {MANIFEST_FILE: _sha256(folder / MANIFEST_FILE)}
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    (folder / SUMS_FILE).write_text(text, encoding="utf-8")
    return f"sha256:{_sha256(folder / SUMS_FILE)}"


def names_in(folder: Path) -> list[str]:
    """Return the names of the files that a manifest describes."""
    own = {MANIFEST_FILE, SUMS_FILE, SIGNATURE_FILE}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if name not in own]


def manifest_of(content: Content, folder: Path, files: Mapping[str, BundledFile]) -> Manifest:
    """Return the manifest of the files that lie in `folder`."""
    report = content.report
    rows = shipping(report, content.options)
    main = {runtime: f"model/{stored(row, content.run_folder).file.name}" for runtime, row in rows.items()}
    return Manifest(
        secateur=__version__,
        name=report.name,
        files=dict(files),
        main=main,
        runtime=default_runtime(report, rows),
        lineage=_lineage(content, rows),
        recipe=report.recipe,
        recipe_digest=report.recipe_digest,
        data=report.data,
        seed=report.seed,
        versions=report.versions,
        target=report.target,
        machine=_machine(content, rows),
        accuracy=_accuracy(content, rows),
        latency=_latency(content, rows, main),
        budget=report.budget,
        licences=Licences(
            weights=weights_licence(content), data=data_licence(content), samples=_samples_licence(folder)
        ),
    )


def as_json(manifest: Manifest) -> str:
    """Return the text of manifest.json. Numbers that are not finite have no place in JSON: they are absent."""
    return json.dumps(_finite(manifest.model_dump(mode="json")), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _described(path: Path) -> BundledFile:
    return BundledFile(sha256=_sha256(path), bytes=path.stat().st_size)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _lineage(content: Content, rows: Mapping[DeviceRuntime, Row]) -> tuple[StageRecord, ...]:
    """Return the records of the longest chain: a chain has no branches, so that of every other file begins it."""
    return max((stored(row, content.run_folder).lineage for row in rows.values()), key=len)


def _accuracy(content: Content, rows: Mapping[DeviceRuntime, Row]) -> BundledAccuracy:
    """Return what was found of the original and of the default runtime's file; of others the test says nothing."""
    report = content.report
    shipped = rows[default_runtime(report, rows)]
    readable = [row for row in report.rows if row.form != "openvino" or report.target.runtime == "openvino"]
    return BundledAccuracy(
        validation_original=report.rows[0].validation,
        validation_result=shipped.validation,
        test=report.final if readable[-1].digest == shipped.digest else None,
    )


def _latency(
    content: Content, rows: Mapping[DeviceRuntime, Row], main: Mapping[DeviceRuntime, str]
) -> tuple[BundledLatency, ...]:
    """Return the timings of the original and of the shipped files, each in the bundle's runtimes that read it."""
    original = content.report.rows[0]
    found = [
        BundledLatency(label=original.label, timing=timing) for timing in original.timings if timing.runtime in rows
    ]
    for runtime, row in rows.items():
        timings = [timing for timing in row.timings if timing.runtime == runtime]
        found += [BundledLatency(label=row.label, file=main[runtime], timing=timing) for timing in timings]
    return tuple(found)


def _machine(content: Content, rows: Mapping[DeviceRuntime, Row]) -> dict[str, Any]:
    """Return the fingerprint of the machine that timed the shipped file; without timing that of the run."""
    digest = rows[default_runtime(content.report, rows)].digest
    folders = [content.run_folder / row.folder for row in content.report.rows if row.kind == "measure"]
    for folder in reversed(folders):
        if (folder / MEASUREMENT_FILE).is_file():
            for subject in load_measurement(folder / MEASUREMENT_FILE).subjects:
                if subject.digest == digest:
                    return subject.fingerprint
    return content.report.machine


def _samples_licence(folder: Path) -> str:
    """Return the licence of the samples, as they say it themselves."""
    samples = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))["samples"]
    return ", ".join(sorted({sample["licence"] for sample in samples}))
