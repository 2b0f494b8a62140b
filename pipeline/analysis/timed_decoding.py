"""What files are timed with where decoding counts: a task's own code, and its first validation samples."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.task_sources import code_of, task_sources
from pipeline.measure.decoding import Decoding, stored_samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.core.task import Task


@contextmanager
def timed_decoding(task: Task, batch: int) -> Iterator[Decoding]:
    """Give the task's decoding, on its first `batch` validation samples, for as long as the block lasts.

    Raises:
        StageError: the task's code has no file that could be sent.
    """
    places = [place % task.count("validation") for place in range(batch)]
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        samples = stored_samples(task.feeds("validation", places), Path(folder))
        yield Decoding(task_sources(task.kit), code_of(task.kit), samples)
