"""What the result of a run takes once it is packed, where zeros or clusters make that worth knowing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.results.run import Storage

if TYPE_CHECKING:
    from pipeline.core.artifact import Artifact
    from pipeline.core.stage import Progress
    from pipeline.results.run import Row


def storage_of(original: Row, result: Row, file: Artifact, progress: Progress) -> Storage | None:
    """Return the bytes of the result's file in every form; None where nothing made its weights zero or equal.

    Also None, with a note of the reason, where the file cannot be packed.

    `file` is the result's exported file. Packing is tried for it alone: it takes seconds for each megabyte.
    """
    from pipeline.bundle.packing import packed_network, packed_sizes

    if result.sparsity is None and result.sharing is None:
        return None
    try:
        network, packed = packed_network(file.file, progress=progress)
    except InputError as error:  # what was asked for is there; that it cannot be packed is told
        progress.note(f"what the result takes packed is not known: {error}")
        return None
    sizes = packed_sizes(file.file, file.file, network, packed)
    return Storage(
        original=original.size_bytes or sizes.raw,
        raw=sizes.raw,
        zlib=sizes.zlib,
        packed=sizes.packed,
        bound=round(sizes.bound),
        in_memory=sizes.in_memory,
    )
