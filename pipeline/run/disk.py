"""A full disk, whatever a library makes of it, is one message."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.core.errors import ResourceError, SecateurError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A disk with less than this is full.
_NO_SPACE_BYTES = 64 * 1024


@contextmanager
def disk_errors(*folders: Path) -> Iterator[None]:
    """Turn a full disk into a message that says what to do.

    Libraries that write files raise errors of their own for it, so the disks of `folders` are asked when one fails.
    """
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        told = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        full = [folder for folder in folders if shutil.disk_usage(folder).free < _NO_SPACE_BYTES]
        if not told and not full:
            raise
        where = full[0] if full else getattr(error, "filename", None) or "while writing"
        raise ResourceError(f"the disk is full ({where}). Free some space and run again: it resumes.") from error
