"""Vendors that print: their own chatter is kept off the console while an error's message stays ours."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def quiet(ignored: str, category: type[Warning]) -> Iterator[None]:
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
