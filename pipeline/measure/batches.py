"""A file run on many images for its outputs, in a session like the one that ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import InputError, first_line
from pipeline.measure.runtimes import open_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime


def run_in_batches(
    file: Path, batches_NCHW: Iterable[NDArray[np.float32]], *, runtime: Runtime, threads: int, batch: int
) -> Iterator[list[NDArray[np.float32]]]:
    """Yield copies of a file's outputs, each [B, ...], for each of the batches of at most `batch` images.

    A smaller batch is filled up with its last image, whose further outputs are left out.

    Raises:
        InputError: the runtime cannot read or run the file.
    """
    session = open_session(runtime, file, threads=threads, batch=batch)
    for images_NCHW in batches_NCHW:
        count = len(images_NCHW)
        filled_NCHW = np.concatenate([images_NCHW, np.repeat(images_NCHW[-1:], batch - count, axis=0)])
        try:
            outputs = session.run(filled_NCHW)
        except Exception as error:  # the runtimes' exception classes are private
            raise InputError(f"{file.name}: {runtime} cannot run it: {first_line(error)}") from error
        yield [np.array(output)[:count] if count < batch else np.array(output) for output in outputs]
