"""What `secateur bench FILE...` does: one file's latency, or several files against the first."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pipeline.core.artifact import file_digest
from pipeline.core.errors import InputError
from pipeline.measure.harness import Subject, measure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.core.measurement import Measurement
    from pipeline.core.stage import Progress, Runtime


def bench(
    files: Sequence[Path],
    *,
    runtime: Runtime,
    threads: int,
    budget_s: float,
    seed: int,
    batch: int = 1,
    progress: Progress | None = None,
) -> Measurement:
    """Measure files in one runtime, interleaved; the first is the baseline of the others.

    The same file given twice shows the noise of the machine: its speedup over itself is 1.

    Raises:
        InputError: no file is given, one does not exist, or the runtime cannot read it.
        StageError: outputs are not finite, or differ in shape between files.
    """
    subjects = [Subject(str(file), runtime, file, source_digest(file)) for file in files]
    return measure(subjects, threads=threads, batch=batch, budget_s=budget_s, seed=seed, progress=progress)


def source_digest(file: Path) -> str:
    """Return the sha256 of a file; of an OpenVINO model that of its .xml and the .bin beside it.

    Raises:
        InputError: a file does not exist.
    """
    parts = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
    for part in parts:
        if not part.is_file():
            raise InputError(f"{part} does not exist; expected an exported network")
    if len(parts) == 1:
        return file_digest(file)
    return hashlib.sha256("".join(file_digest(part) for part in parts).encode()).hexdigest()
