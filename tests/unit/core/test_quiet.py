"""What a vendor prints, logs or warns of is gone within the block, and back after it."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from pipeline.core.quiet import printed_aside, quiet_libraries

if TYPE_CHECKING:
    from _pytest.capture import CaptureFixture


def chatter() -> None:
    """Do all three."""
    print("printed")  # noqa: T201
    print("to stderr", file=sys.stderr)  # noqa: T201
    logging.getLogger("vendor").error("logged")


def test_nothing_is_seen(capsys: CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Within the block nothing comes through; after it everything does."""
    with quiet_libraries("old", FutureWarning):
        chatter()
        warnings.warn("old thing", FutureWarning, stacklevel=1)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    chatter()
    assert capsys.readouterr().out == "printed\n"
    assert [record.message for record in caplog.records] == ["logged"]


def test_other_warnings_and_errors_come_through() -> None:
    """Only what was named is ignored, and logging is switched on again after an error."""
    with pytest.raises(ValueError, match="ours"), quiet_libraries("old", FutureWarning):
        raise ValueError("ours")
    assert logging.root.manager.disable == logging.NOTSET
    with pytest.warns(UserWarning, match="new"), quiet_libraries("old", FutureWarning):
        warnings.warn("new thing", UserWarning, stacklevel=1)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_code_that_closes_what_it_prints_to(capsys: CaptureFixture[str], name: str) -> None:
    """All of it is on standard error, and what comes afterwards is shown as well."""
    with printed_aside():
        sys.stdout.write("before\n")
        getattr(sys, name).close()
        sys.stdout.write("after\n")
        sys.stderr.write("an error\n")
    sys.stdout.write("a result\n")
    assert capsys.readouterr() == ("a result\n", "before\nafter\nan error\n")
