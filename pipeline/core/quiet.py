"""What others print: vendors' chatter is kept off the console, that of the user's code is no part of a result."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator


class _KeptOpen(io.TextIOBase):
    """A stream that nobody can close."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override] # a plain attribute there
        return self._stream.encoding

    def close(self) -> None:
        """Stay open: code of the user's may close what it prints to."""


@contextlib.contextmanager
def printed_aside() -> Iterator[None]:
    """Within the block all that is printed goes to standard error, which stays open."""
    kept = _KeptOpen(sys.stderr)
    with contextlib.redirect_stdout(kept), contextlib.redirect_stderr(kept):
        yield


@contextlib.contextmanager
def quiet_libraries(ignored: str, category: type[Warning]) -> Iterator[None]:
    """Within the block: no log lines, nothing printed, and no warnings whose text matches `ignored`."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", ignored, category)
            yield
    finally:
        logging.disable(disabled)
