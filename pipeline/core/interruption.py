"""Ctrl-C and SIGTERM: one line, an exit code, and the line that goes on from there, wherever the program is.

A signal raises `Interrupted` in the main thread. Libraries may turn it into an error of their own, or go on as if
nothing had been: so it is also remembered, `check` raises it again, and who ends a command asks `received` first.
Native code gives Python no turn: a thread that sleeps until a signal comes ends the process where that lasts too long.
What is written stands whole under its name, so that nothing is lost by that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Longest time for native code to give Python a turn, and for what is open to be closed then.
PATIENCE_S, CLOSING_S = 10.0, 30.0
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupted(BaseException):
    """The user, or the system, wants the program to end. No error: `except Exception` lets it pass."""


class _State:
    """The signal that came, and what to tell then."""

    number = 0
    advice = ""


def install() -> None:
    """Take over both signals for the rest of this process. A second signal ends it at once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in _SIGNALS:
        signal.signal(number, _raise)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="interruption").start()


def advise(text: str) -> None:
    """Say what is to be told below "Interrupted" from now on: how to go on."""
    _State.advice = text


def received() -> int:
    """Return the signal that has come, 0 for none."""
    return _State.number


def check() -> None:
    """Raise Interrupted where a signal has come, and a library has swallowed what it raised."""
    if _State.number:
        raise Interrupted


def exit_code() -> int:
    """Return the exit code of a process that the signal ended: 130 or 143."""
    return 128 + (_State.number or signal.SIGINT)


def interruption_lines() -> str:
    """Return the line, and the advice below it."""
    return "\n".join(line for line in ("Interrupted", _State.advice) if line)


def _raise(number: int, _frame: FrameType | None) -> None:
    if _State.number:
        _end(number)
    _State.number = number
    raise Interrupted


def _watch(reader: int) -> None:
    """Wait for a signal, then for the end of the process; end it where that does not come."""
    while True:
        number = os.read(reader, 1)[0]
        if number in _SIGNALS:
            break
    time.sleep(PATIENCE_S)
    if _State.number:
        time.sleep(CLOSING_S)
    _end(_State.number or number)


def _end(number: int) -> None:
    """End the process without another line of Python; worker processes end when it does."""
    _State.number = number
    start = _SHOW_CURSOR + b"\n" if os.isatty(2) else b""
    os.write(2, start + f"{interruption_lines()}\n".encode(errors="backslashreplace"))
    os._exit(exit_code())


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    """Say nothing of an interruption that came while an object was being deleted: it is remembered."""
    if not isinstance(found.exc_value, Interrupted):
        sys.__unraisablehook__(found)
