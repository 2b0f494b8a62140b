"""A file run on many samples for its outputs, in a session like the one that ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import InputError, first_line
from pipeline.core.feeds import require_inputs, sample_count
from pipeline.measure.runtimes import open_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Runtime
    from pipeline.measure.runtimes import Session


def run_in_batches(
    file: Path, batches: Iterable[Feeds], *, runtime: Runtime, threads: int, batch: int
) -> Iterator[list[NDArray[Any]]]:
    """Yield copies of a file's outputs, each [B, ...], for each of the batches of at most `batch` samples.

    A smaller batch is filled up with its last sample, whose further outputs are left out.

    Raises:
        InputError: the runtime cannot read or run the file, or it takes other inputs.
    """
    session: Session | None = None
    for feeds in batches:
        if session is None:  # sizes that the file leaves open are those of the samples
            shapes = {name: values.shape for name, values in feeds.items()}
            session = open_session(runtime, file, threads=threads, batch=batch, open_shapes=shapes)
        names = [port.name for port in session.inputs]
        require_inputs(feeds, names, file.name)
        count = sample_count(feeds)
        places = np.minimum(np.arange(batch), count - 1)
        try:
            outputs = session.run(*(feeds[name][places] for name in names))
        except Exception as error:  # the runtimes' exception classes are private
            raise InputError(f"{file.name}: {runtime} cannot run it: {first_line(error)}") from error
        yield [np.array(output)[:count] if count < batch else np.array(output) for output in outputs]
