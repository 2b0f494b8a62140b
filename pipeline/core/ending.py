"""The end of the process: threads that the user's code left running do not keep it for ever.

Python ends once every thread has that is no daemon. Most end by then: those of an idle executor, or one that brings
results somewhere. The others are named and left, and the exit code is the one that the command had.
"""

from __future__ import annotations

import os
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
