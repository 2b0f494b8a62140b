"""The end of the process: threads that the user's code left running, and output that nobody reads any more.

Python ends once every thread has that is no daemon. Most end by then: those of an idle executor, or one that brings
results somewhere. The others are named and left, and the exit code is the one that the command had.

Behind `| head` the program ends quietly, like one that SIGPIPE ends. The signal itself stays ignored: a device's
process that has gone is an error with a message, not the end of this one.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.core.printable import printable_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Longest time for threads to end after all else has.
PATIENCE_S = 10.0


@contextmanager
def ended_in_time() -> Iterator[None]:
    """End the process `PATIENCE_S` after the block where a thread that was started in it still keeps it from ending.

    The exit code is that of the SystemExit that leaves the block, 0 where nothing does, and 1 for other errors.
    """
    before = threading.enumerate()
    code = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        started = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
        if started:
            threading.Thread(target=_end, args=(started, code), daemon=True, name="ending").start()


def _end(threads: Sequence[threading.Thread], code: int) -> None:
    """Wait, beside the interpreter that does so too; it ends this thread when it ends the process itself."""
    time.sleep(PATIENCE_S)
    living = [thread.name for thread in threads if thread.is_alive()]
    if not living:
        return
    names = printable_text(", ".join(living))
    try:
        print(  # noqa: T201 - the command has ended
            f"left running: {names}. No daemon, and still at work {PATIENCE_S:g} s after the end: the process ends "
            "without it. End it in the code that started it, or make it a daemon thread",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


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
