"""What a bundle is made from: a finished run, the files of it that ship, its data, and what was chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.core.dataset import Dataset
    from pipeline.core.stage import Progress, Runtime
    from pipeline.core.task import Task
    from pipeline.results.bundle import BundleOptions
    from pipeline.results.run import RunReport


@dataclass(frozen=True)
class Content:
    """Everything that the producers of a bundle's files may use. Each writes below a given folder and nowhere else.

    `files` are the exported files that ship, by the runtime that reads them; beside each lies its artifact.json
    (`pipeline.core.store.read_artifact`). `runtime` is the one that infer.py and verify.py use by default. Licences of
    weights and data are those of `pipeline.bundle.licences`.
    """

    report: RunReport
    run_folder: Path
    files: Mapping[Runtime, Path]
    runtime: Runtime
    task: Task
    options: BundleOptions
    progress: Progress

    @property
    def dataset(self) -> Dataset:
        """The images of an image classifier."""
        return self.task.dataset()
