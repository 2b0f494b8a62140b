"""Which of a run's files ship: for each runtime the last exported one that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.entry import ARTIFACT_FILE
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.runtimes import RUNTIMES, exported_forms, shipping_runtimes
from pipeline.core.store import read_artifact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.core.artifact import Artifact, Form
    from pipeline.core.stage import Runtime
    from pipeline.results.bundle import BundleOptions, DeviceRuntime
    from pipeline.results.run import Row, RunReport


def check_finished(report: RunReport, folder: Path) -> None:
    """Raise InputError for a run that has no result to ship."""
    if report.status != "finished":
        why = f": {report.error}" if report.error else ""
        again = f"resume it with: {report.command}" if report.command else "run it again"
        end = "wait for it" if report.status == "running" else again
        raise InputError(f"{folder} holds a run that is {report.status}{why}; expected a finished one: {end}")


def _last_rows(report: RunReport) -> dict[Form, Row]:
    """Return the row that made the last file of each exported form."""
    made = [row for row in report.rows if row.form in exported_forms() and row.makes_file and not row.skipped]
    return {row.form: row for row in made}


def shipping_rows(report: RunReport, options: BundleOptions) -> dict[DeviceRuntime, Row]:
    """Return the row whose file ships, for each runtime: OpenVINO reads ONNX where it has no file of its own.

    Raises:
        InputError: nothing was exported, or nothing that a wanted runtime reads.
    """
    rows = _last_rows(report)
    if not rows:
        raise InputError(f'"{report.name}" exports no file; put {{kind: export, to: onnx}} into its recipe and run it')
    found: dict[DeviceRuntime, Row] = {}
    for runtime in options.runtimes or shipping_runtimes():
        reads = RUNTIMES[runtime].reads
        row = next((rows[form] for form in reads if form in rows), None)
        if row is None and options.runtimes:
            made = ", ".join(sorted(rows))
            raise InputError(f"runtimes: {runtime} reads none of the exported forms ({made}); remove it")
        if row is not None and (options.runtimes or reads[0] in rows or runtime == report.target.runtime):
            found[runtime] = row
    return found


def default_runtime(report: RunReport, rows: Mapping[DeviceRuntime, Row]) -> DeviceRuntime:
    """Return the runtime that a bundle's code uses by default: the target's where there is a file for it."""
    return next((runtime for runtime in rows if runtime == report.target.runtime), next(iter(rows)))


def device_runtime(runtime: Runtime) -> DeviceRuntime:
    """Return a runtime as one that a device can have."""
    return next(each for each in shipping_runtimes() if each == runtime)


def stored_artifact(row: Row, run_folder: Path) -> Artifact:
    """Return the artifact of a row from the run's folder.

    Raises:
        InputError: its files are gone, or are not those that the run reported.
    """
    folder = run_folder / row.folder
    again = "run the recipe again: finished stages are restored from the store"
    if not (folder / ARTIFACT_FILE).is_file():
        raise InputError(f"{folder}: the files of stage {row.label} are gone; {again}")
    try:
        artifact = read_artifact(folder)
    except ResourceError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise InputError(f"{folder}: a file of stage {row.label} is gone; {again}") from error
    if artifact.digest != row.digest:
        raise InputError(f"{folder}: the files of stage {row.label} are not those of run.json; {again}")
    return artifact
