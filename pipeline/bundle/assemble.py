"""From a finished run to a bundle: every file in a new folder, then manifest.json and SHA256SUMS over them."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from pipeline.bundle.archive import mode_of
from pipeline.bundle.content import Content
from pipeline.bundle.manifest import write_manifest
from pipeline.bundle.packing import packed_network
from pipeline.bundle.selection import check_finished, default_runtime, shipping_rows, stored_artifact
from pipeline.bundle.tolerance import far
from pipeline.compress.coding import unpack
from pipeline.core.stage import SilentProgress
from pipeline.core.store import read_artifact
from pipeline.results.bundle import PACKED_SUFFIX, UNPACK_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.core.stage import Progress
    from pipeline.core.task import Task
    from pipeline.results.bundle import BundleOptions
    from pipeline.results.run import RunReport

#: Programs that ship as they are.
CODE = ("infer.py", "self_test.py", "verify.py")
ON_DEVICE = Path(__file__).parent / "on_device"
#: Programs of a bundle of any other task than classifying images, by their names there.
_START, _PARTS = (
    ON_DEVICE / "task" / "start.py",
    "__init__.py infer.py inputs.py network.py answers.py task_code.py self_test.py",
)
TASK_CODE = {
    "infer.py": _START,
    "self_test.py": _START,
    "verify.py": ON_DEVICE / "verify.py",
    **{f"on_device/{name}": ON_DEVICE / name for name in ("__init__.py", "infer.py", "self_test.py")},
    **{f"on_device/task/{name}": ON_DEVICE / "task" / name for name in _PARTS.split()},
}
FOLDERS = ("model", "samples")
#: Unpacks model files where a bundle's are packed; it lies beside infer.py, which loads it.
_UNPACK = Path(str(unpack.__file__))


def content_of(
    report: RunReport, run_folder: Path, task: Task, options: BundleOptions, progress: Progress | None = None
) -> Content:
    """Return what a bundle is made from; its task is that of the recipe with images of the size that its files take.

    Raises:
        InputError: the run is not finished, exports nothing that a wanted runtime reads, or its files are gone.
    """
    check_finished(report, run_folder)
    rows = shipping_rows(report, options)
    artifacts = {runtime: stored_artifact(row, run_folder) for runtime, row in rows.items()}
    runtime = default_runtime(report, rows)
    return Content(
        report=report,
        run_folder=run_folder,
        files={name: artifact.file for name, artifact in artifacts.items()},
        runtime=runtime,
        task=task.for_inputs(artifacts[runtime].inputs),
        options=options,
        progress=progress or SilentProgress(),
    )


def programs_of(*, images: bool, packed: bool = False) -> dict[str, Path]:
    """Return the programs that ship, by their names: in the bundle of an image classifier, or of another task.

    What unpacks model files is one of them where these are `packed`.
    """
    found = {name: ON_DEVICE / name for name in CODE} if images else dict(TASK_CODE)
    unpacks = {UNPACK_FILE if images else f"on_device/{UNPACK_FILE}": _UNPACK}
    return {**found, **unpacks} if packed else found


def producers(content: Content) -> Mapping[str, Callable[[Content, Path], None]]:
    """Return what writes the parts of a bundle, in the order in which they need each other."""
    from pipeline.bundle import bill, card, preprocessing, requirements, samples, task_parts, task_samples

    own: dict[str, Callable[[Content, Path], None]] = {
        "preprocessing": preprocessing.write_preprocessing,
        "samples": samples.write_samples,
    }
    if content.task.images is None:
        own = {
            "task": task_parts.write_task,
            "samples": task_samples.write_task_samples,
            "try without torch": task_parts.try_without_torch,
        }
    return {
        "model": _write_models,
        "code": _write_code,
        "recipe": _write_recipe,
        **own,
        "requirements": requirements.write_requirements,
        "bill of materials": bill.write_bill,
        "model card": card.write_card,
    }


def assemble(content: Content, folder: Path) -> str:
    """Write a bundle into an empty folder; return its digest, that of SHA256SUMS."""
    if content.report.final is None:
        what = content.task.judged.name
        content.progress.note(f"the bundle has no test {what}, because the run did not use the test split")
    for said in sorted({far(read_artifact(file.parent).lineage) for file in content.files.values()} - {""}):
        content.progress.note(f"the bundle ships a network that is {said}: its recipe says on_far: keep")
    for name in FOLDERS:
        (folder / name).mkdir()
    parts = producers(content)
    for done, (name, write) in enumerate(parts.items()):
        content.progress.update(done, len(parts), f"bundle: {name}")
        write(content, folder)
    digest = write_manifest(content, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else mode_of(path.name))
    return digest


def _write_models(content: Content, folder: Path) -> None:
    """Copy or pack the exported files: a bundle must not change with the run's folder."""
    for file in dict.fromkeys(content.files.values()):
        if content.options.storage == "packed":
            _, packed = packed_network(file, progress=content.progress)
            (folder / "model" / f"{file.name}{PACKED_SUFFIX}").write_bytes(packed.content)
            continue
        shutil.copyfile(file, folder / "model" / file.name)
        if file.suffix == ".xml":
            weights = file.with_suffix(".bin")
            shutil.copyfile(weights, folder / "model" / weights.name)


def _write_code(content: Content, folder: Path) -> None:
    programs = programs_of(images=content.task.images is not None, packed=content.options.storage == "packed")
    for name, source in programs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)


def _write_recipe(content: Content, folder: Path) -> None:
    """Write the recipe's values as YAML, overrides included."""
    text = StringIO()
    writer = YAML()
    writer.width = 120
    writer.dump(content.report.recipe, text)
    head = (
        "# The recipe of this bundle, with the values set on the command line. Its paths are relative to its own "
        "folder.\n"
    )
    (folder / "recipe.yaml").write_text(head + text.getvalue(), encoding="utf-8")
