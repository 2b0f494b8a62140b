"""manifest.json of a bundle: what is known of the run and its files, without clock and paths of this machine."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.bundle.json_text import json_text
from pipeline.bundle.licences import data_licence, weights_licence
from pipeline.bundle.on_device.self_test import EXPECTED
from pipeline.bundle.selection import device_runtime
from pipeline.core.runtimes import last_readable
from pipeline.core.store import read_artifact
from pipeline.results.bundle import (
    MANIFEST_FILE,
    PACKED_SUFFIX,
    SIGNATURE_FILE,
    SUMS_FILE,
    BundledAccuracy,
    BundledFile,
    BundledLatency,
    Licences,
    Manifest,
)
from pipeline.results.measurement import MEASUREMENT_FILE, load_measurement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.bundle.content import Content
    from pipeline.core.stage import Runtime
    from pipeline.results.bundle import DeviceRuntime
    from pipeline.results.run import Row


def write_manifest(content: Content, folder: Path) -> str:
    """Write manifest.json and SHA256SUMS over the files in `folder`; return the digest of SHA256SUMS."""
    files = {name: _described(folder / name) for name in _names_in(folder)}
    (folder / MANIFEST_FILE).write_text(as_json(manifest_of(content, folder, files)), encoding="utf-8")
    sums = {name: entry.sha256 for name, entry in files.items()} | {MANIFEST_FILE: _sha256(folder / MANIFEST_FILE)}
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    (folder / SUMS_FILE).write_text(text, encoding="utf-8")
    return f"sha256:{_sha256(folder / SUMS_FILE)}"


def _names_in(folder: Path) -> list[str]:
    """Return the names of the files that a manifest describes."""
    own = {MANIFEST_FILE, SUMS_FILE, SIGNATURE_FILE}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if name not in own]


def manifest_of(content: Content, folder: Path, files: Mapping[str, BundledFile]) -> Manifest:
    """Return the manifest of the files that lie in `folder`."""
    report = content.report
    return Manifest(
        secateur=__version__,
        name=report.name,
        files=dict(files),
        main=_main_of(content),
        runtime=device_runtime(content.runtime),
        # A chain has no branches: that of every other file begins the longest.
        lineage=max((read_artifact(file.parent).lineage for file in content.files.values()), key=len),
        recipe=report.recipe,
        recipe_digest=report.recipe_digest,
        data=report.data,
        seed=report.seed,
        versions=report.versions,
        target=report.target,
        dynamic={size: dict(axes) for size, axes in content.task.sizes.axes.items()},
        machine=_machine(content),
        accuracy=_accuracy(content),
        latency=_latency(content),
        budget=report.budget,
        licences=Licences(
            weights=weights_licence(content), data=data_licence(content), samples=_samples_licence(folder)
        ),
    )


def _main_of(content: Content) -> dict[DeviceRuntime, str]:
    """Return the name of each runtime's model file in the bundle."""
    suffix = PACKED_SUFFIX if content.options.storage == "packed" else ""
    return {device_runtime(runtime): f"model/{file.name}{suffix}" for runtime, file in content.files.items()}


def as_json(manifest: Manifest) -> str:
    """Return the text of manifest.json. Numbers that are not finite have no place in JSON: they are absent."""
    return json_text(_finite(manifest.model_dump(mode="json")))


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


def _row(content: Content, runtime: Runtime) -> Row | None:
    """Return the row of the report that made a runtime's file."""
    digest = read_artifact(content.files[runtime].parent).digest
    return next((row for row in content.report.rows if row.digest == digest and row.makes_file), None)


def _accuracy(content: Content) -> BundledAccuracy:
    """Return what was found of the original and of the default runtime's file; of others the test says nothing."""
    report, shipped = content.report, _row(content, content.runtime)
    judged = report.rows[last_readable((row.form for row in report.rows), report.target.runtime)]
    tested = shipped is not None and judged.digest == shipped.digest
    return BundledAccuracy(
        validation_original=report.rows[0].validation,
        validation_result=shipped.validation if shipped else None,
        test=report.final if tested else None,
    )


def _latency(content: Content) -> tuple[BundledLatency, ...]:
    """Return the timings of the original and of the shipped files, each in the runtime that it ships for."""
    original = content.report.rows[0]
    timings = [timing for timing in original.timings if timing.runtime in content.files]
    found = [BundledLatency(label=original.label, timing=timing) for timing in timings]
    for runtime, name in _main_of(content).items():
        row = _row(content, runtime)
        timings = [timing for timing in row.timings if timing.runtime == runtime] if row else []
        found += [BundledLatency(label=row.label, file=name, timing=timing) for timing in timings if row]
    return tuple(found)


def _machine(content: Content) -> dict[str, Any]:
    """Return the fingerprint of the machine that timed the shipped file; without timing that of the run."""
    digest = read_artifact(content.files[content.runtime].parent).digest
    folders = [content.run_folder / row.folder for row in content.report.rows]
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
