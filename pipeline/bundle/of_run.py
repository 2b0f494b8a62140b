"""From the folder of a finished run to its bundle: options and data are those of the run's own recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.bundle.assemble import content_of
from pipeline.bundle.place import write_beside_run, write_bundle
from pipeline.bundle.selection import check_finished
from pipeline.core.errors import InputError
from pipeline.core.locks import file_lock
from pipeline.core.partial import write_whole
from pipeline.data import data_digest, load_task
from pipeline.recipe import load_values
from pipeline.recipe.problems import problem_messages
from pipeline.recipe.yaml import dotted_place
from pipeline.results.bundle import BundleOptions
from pipeline.results.run_folder import LOCK_FILE, RUN_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.core.stage import Progress
    from pipeline.core.task import Task
    from pipeline.results.run import RunReport


@dataclass(frozen=True)
class WrittenBundle:
    """A bundle's digest, that of its SHA256SUMS, and where it was written."""

    digest: str
    places: tuple[Path, ...]


def write_bundle_of(
    report: RunReport,
    folder: Path,
    out: Path | None,
    given: Mapping[str, Any],
    *,
    secret_key: Path | None = None,
    progress: Progress | None = None,
) -> WrittenBundle:
    """Write the bundle of a finished run to `out`, or without it into the run's folder, beside an archive of it.

    What is in the run's folder stands in its run.json as well.

    Args:
        report: of the run in `folder`.
        folder: the run folder.
        out: a folder, or an archive where its name ends in .tar.gz.
        given: fields of `BundleOptions`, in place of those of the recipe's own stage `bundle`.
        secret_key: of minisign, to sign with.
        progress: told how far it is.

    Raises:
        InputError: the run is not finished, its data or files are not what they were, or an option is not allowed.
        ResourceError: the bundle cannot be written.
    """
    options, task = _of_recipe(report, folder, given)
    content = content_of(report, folder, task, options, progress)
    if out is not None:
        return WrittenBundle(write_bundle(content, (out,), secret_key=secret_key), (out,))
    with file_lock(folder / LOCK_FILE, f"a run is writing into {folder}: wait for it, or give --out"):
        record = write_beside_run(content, secret_key=secret_key)
        write_whole(folder / RUN_FILE, report.model_copy(update={"bundle": record}).model_dump_json(indent=1) + "\n")
    return WrittenBundle(record.digest, (folder / record.folder, folder / record.archive))


def _of_recipe(report: RunReport, folder: Path, given: Mapping[str, Any]) -> tuple[BundleOptions, Task]:
    """Return the options, those of the recipe's own stage where none are given, and the task of a run."""
    check_finished(report, folder)
    if not report.recipe_folder:
        raise InputError(
            f"{folder} was made by a version without bundles; run its recipe again: finished stages are kept"
        )
    recipe = load_values(report.recipe, Path(report.recipe_folder)).recipe
    values = {**(recipe.stages[-1].bundle_options() or {}), **given}
    try:
        options = BundleOptions.model_validate(values)
    except ValidationError as error:
        found = problem_messages(error.errors(include_url=False), BundleOptions.model_json_schema(), values)
        raise InputError("\n".join(f"{dotted_place(place)}: {said}" for place, said in found.items())) from error
    if recipe.data and data_digest(recipe.data) != report.data.get("digest"):
        raise InputError(f"the data of {folder} have changed since the run; run its recipe again")
    return options, load_task(recipe.task, recipe.data)
