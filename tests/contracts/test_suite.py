"""What the suite needs of a machine: told in one way, with what brings it, and left out where it cannot be had."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import optional

ROOT = Path(__file__).resolve().parents[2]


def test_what_was_not_tried_is_told_with_what_installs_it() -> None:
    """Reasons are counted; packages stand once; a reason that no package mends stands alone."""
    reasons = ["not installed: sshd", "not installed: timm", "not installed: sshd", "not installed: gcc", "no index"]
    assert optional.told(reasons) == [
        "    1 test   no index",
        "    1 test   not installed: gcc",
        "    2 tests  not installed: sshd",
        "    1 test   not installed: timm",
        "make setup SYSTEM=1 installs gcc, libc6-dev, openssh-server",
        ".venv/bin/pip install timm",
    ]
    assert optional.told([]) == []


def test_what_is_missing_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first that is not there; what is there lets the test go on."""
    monkeypatch.setattr(optional, "SEARCH", str(ROOT))
    monkeypatch.setattr(optional, "DATA", {ROOT / "tests": "a-package", ROOT / "absent": "another"})
    optional.require("tests")
    for name in ("absent", "sshd"):
        with pytest.raises(pytest.skip.Exception, match=f"not installed: {name}"):
            optional.require("tests", name)


def test_hidden_programs_are_not_found() -> None:
    """On PATH there is Python and what a fresh system has, and none of those that a test may do without."""
    shell = f"for name in python3 sh git {' '.join(optional.PROGRAMS)}; do command -v $name; done; exit 7"
    command = [sys.executable, "-m", "tests.optional", "hide", "sh", "-c", shell]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    found = [Path(line).name for line in done.stdout.splitlines() if line.startswith("/")]
    assert {"python3", "sh"} <= set(found) <= {"python3", "sh", "git"}


def test_one_way_to_skip_for_want_of_a_program() -> None:
    """Another would not be told at the end of a run, nor be tried again by `make untried`."""
    for file in (ROOT / "tests").rglob("*.py"):
        if file not in {Path(__file__), ROOT / "tests" / "optional.py"}:
            text = file.read_text()
            assert not re.search(r"skip\(f?.not installed|importorskip|skipif\(.*(which|find_spec)", text), file
