"""The samples of a bundle of any other task than classifying images, run with this program's own code."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bundle.assemble import programs_of
from pipeline.bundle.on_device.infer import Rejected as NotUsable
from pipeline.bundle.on_device.self_test import Failed
from pipeline.bundle.on_device.task.self_test import Conditions, read_samples, run_samples
from pipeline.bundle.on_device.task.task_code import FACTS, FOLDER, TaskCode, kind_class, load_facts
from pipeline.bundle.on_device.verify import (
    EXPECTED,
    MANIFEST,
    MISSING_RUNTIME,
    PACKED,
    TEXT_BYTES,
    Rejected,
    printable_value,
    read_file,
    strict_json,
)
from pipeline.data.task_sources import kind_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.bundle.on_device.verify import Verification, VerifyOptions

#: Where this program's own kinds of tasks are.
KINDS = "pipeline.tasks"


def is_task(manifest: Mapping[str, Any]) -> bool:
    """Say whether a bundle is of any other task than classifying images."""
    return FACTS in manifest["files"]


def has_packed(manifest: Mapping[str, Any]) -> bool:
    """Say whether a bundle's model files are packed."""
    return any(name.endswith(PACKED) for name in manifest["main"].values())


def chosen_runtime(manifest: Mapping[str, Any], wanted: str | None) -> str:
    """Return the runtime for the samples. Raises Rejected where a bundle has no file for it."""
    runtime: str = wanted or manifest["runtime"]
    if runtime not in manifest["main"]:
        allowed = ", ".join(manifest["main"])
        raise Rejected(f"{MANIFEST}: it has no file for {printable_value(runtime)}, allowed: {allowed}")
    return runtime


def read_expected_json(folder: Path) -> dict[str, Any]:
    """Return the content of samples/expected.json. Raises Rejected."""
    return strict_json(read_file(folder, EXPECTED, TEXT_BYTES), EXPECTED)


def own_code(facts: Mapping[str, Any]) -> TaskCode | None:
    """Return the code of one of this program's own kinds; None for a user's file, which only the bundle itself runs."""
    if "file" in facts["code"]:
        return None
    try:
        return TaskCode(kind_class(KINDS, facts["code"])(**facts["code"]["settings"]), facts)
    except NotUsable:
        raise
    except Exception as error:
        raise NotUsable(f"{FACTS}: this version has no such kind of task: {error}") from error


def task_limits(folder: Path, manifest: Mapping[str, Any], runtime: str) -> tuple[bool, float]:
    """Return whether outputs must be the same, and the widest tolerance of any. Raises Rejected."""
    chosen_runtime(manifest, runtime)
    try:
        read = read_samples(folder, manifest, read_expected_json(folder), load_facts(folder), runtime)
    except (Failed, NotUsable) as error:
        raise Rejected(str(error), error.exit_code) from error
    return read.exact, max(read.allowed.values())


@contextmanager
def own_programs(folder: Path, manifest: Mapping[str, Any]) -> Iterator[dict[str, Path]]:
    """Give the programs that check a bundle elsewhere, by name: this program's own, and never those of the bundle.

    They lie as in a bundle, since on some devices files are run where they are. Raises Rejected.
    """
    programs = programs_of(images=not is_task(manifest), packed=has_packed(manifest))
    if not is_task(manifest):
        yield programs
        return
    with tempfile.TemporaryDirectory(prefix="secateur-code-") as place:
        programs = {**programs, **{f"{FOLDER}/{name}": file for name, file in _own_kind(folder).items()}}
        for name, source in programs.items():
            (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, Path(place) / name)
        yield {name: Path(place) / name for name in programs}


def _own_kind(folder: Path) -> dict[str, Path]:
    """Return the files of one of this program's own kinds, by name; none for a user's file."""
    try:
        code = load_facts(folder)["code"]
        return {} if "file" in code else kind_files(Path(str(sys.modules[kind_class(KINDS, code).__module__].__file__)))
    except (NotUsable, ImportError) as error:
        raise Rejected(f"{FACTS}: this version has no such kind of task: {error}") from error


def run_task_samples(folder: Path, manifest: Mapping[str, Any], wanted: VerifyOptions, found: Verification) -> None:
    """Run the samples in the chosen runtime; `found` gets differences, checks and notes. Raises Rejected."""
    runtime, content = chosen_runtime(manifest, wanted.runtime), read_expected_json(folder)
    try:
        conditions = Conditions(runtime, wanted.threads, own_code(load_facts(folder)))
        text = run_samples(folder, manifest, content, conditions, found)
    except ImportError as error:
        raise Rejected(f"{error}; install what is missing: pip install -r requirements.txt", MISSING_RUNTIME) from error
    except (Failed, NotUsable) as error:
        raise Rejected(str(error), error.exit_code) from error
    found.passed("self-test", text)
