"""Output that nobody reads any more, as behind `| head`: the program ends quietly, like one that SIGPIPE ends.

The signal itself stays ignored: a device's process that has gone is an error with a message, not the end of this one.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What a shell makes of SIGPIPE, 128 + 13. No verdict of a command has this code.
UNREAD = 141
_STREAMS = (1, 2)


@contextmanager
def ended_when_unread() -> Iterator[None]:
    """End the process with `UNREAD` and no word where the block, or writing the rest behind it, meets a closed pipe."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException as error:
        unread = [stream for stream in _STREAMS if _is_unread(stream)]
        if not unread or not _of_a_pipe(error):
            raise
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:
            os.dup2(null, stream)  # the interpreter writes what is left when it ends
        raise SystemExit(UNREAD) from None


def _of_a_pipe(error: BaseException | None) -> bool:
    """Say whether an error, or one that it came from, is that of a closed pipe; click makes its own of them."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_unread(stream: int) -> bool:
    """Say whether the other end of a pipe or socket is closed."""
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
