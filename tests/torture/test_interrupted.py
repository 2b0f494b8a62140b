"""Runs that are killed, crash at a file operation, or find the disk full; and several at once on one store."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.optional import found, require
from tests.torture.conftest import digests
from tests.torture.faults import CRASHED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.commands import Commands, Ended
    from tests.torture.tally import Tally

    Place = Callable[[Path], Path]
    Digests = list[tuple[str, str]]

pytestmark = pytest.mark.slow
RUN = ("run", "toy.yaml")
#: A number of file operations, or of files opened for writing, that a whole run does not reach.
BEYOND = 1000


def store_of(folder: Path) -> dict[str, str]:
    """Return the environment of a project with a store of its own."""
    return {"SECATEUR_STORE": str(folder / "store")}


def resumed(commands: Commands, folder: Path, expected: Digests) -> str:
    """Run again, undisturbed, and return what is wrong: another exit code than 0, or other bytes than expected."""
    ended = commands.run(folder, *RUN, environment=store_of(folder))
    return ended.wrong(0) or ("" if digests(folder / "runs" / "toy") == expected else "other bytes after resuming")


@pytest.mark.parametrize("part", range(4))
def test_a_crash_at_each_file_operation(
    commands: Commands, small_project: Place, expected: Digests, tally: Tally, tmp_path: Path, part: int
) -> None:
    """The process ends before its n-th change of a folder, without flushing anything; then the run is started again."""
    for number in range(1 + part, BEYOND, 4) if tally.full else (10 + 40 * part,):
        folder = small_project(tmp_path / f"{number}")
        ended = commands.run(folder, *RUN, environment=store_of(folder), crash_at=number)
        if ended.code == 0:
            break
        wrong = "" if ended.code == CRASHED else ended.wrong(CRASHED)
        tally.add("crash at a file operation", number, wrong or resumed(commands, folder, expected))


@pytest.mark.parametrize("part", range(2))
def test_a_full_disk_at_each_write(
    commands: Commands, small_project: Place, expected: Digests, tally: Tally, tmp_path: Path, part: int
) -> None:
    """From the n-th file on, what is written finds no space; then there is space, and the run is started again."""
    for number in range(1 + part, BEYOND, 2) if tally.full else (4 + 20 * part,):
        folder = small_project(tmp_path / f"{number}")
        ended = commands.run(folder, *RUN, environment=store_of(folder), full_from=number)
        if ended.code == 0:
            break
        tally.add("full disk at a write", number, ended.wrong(3) or resumed(commands, folder, expected))


def mount(folder: Path, *options: str) -> None:
    """Mount a small file system; the test is skipped where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")


def test_a_store_that_fills_up(
    commands: Commands, small_project: Place, expected: Digests, tally: Tally, tmp_path: Path
) -> None:
    """Really, on a file system of so many kilobytes, which then grows: libraries that write files are met, too."""
    require("mount", "umount")
    for size in range(16, 640, 32) if tally.full else (96, 224):
        folder = small_project(tmp_path / f"{size}")
        store = folder / "store"
        store.mkdir()
        mount(store, f"size={size}k")
        try:
            ended = commands.run(folder, *RUN, environment=store_of(folder))
            mount(store, "remount", "size=64m")
            tally.add("full file system", f"{size} kB", ended.wrong(0, 3) or resumed(commands, folder, expected))
        finally:
            subprocess.run([found("umount") or "", "--lazy", str(store)], check=True, capture_output=True)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_at_random_moments(
    commands: Commands, small_project: Place, expected: Digests, tally: Tally, tmp_path: Path, kill: int
) -> None:
    """INT and TERM say so and end with their codes; after each of them the run is started again."""
    seeded = random.Random(kill)
    folder = small_project(tmp_path / "whole")
    began = time.monotonic()
    assert commands.run(folder, *RUN, environment=store_of(folder)).code == 0
    whole = time.monotonic() - began
    for number in range(12 if tally.full else 1):
        folder = small_project(tmp_path / f"{number}")
        pid = commands.start(folder, *RUN, environment=store_of(folder))
        while not commands.said(pid) and commands.running(pid):  # before its first word it is Python that starts
            time.sleep(0.01)
        time.sleep(seeded.uniform(0.0, whole))
        if commands.running(pid):
            os.kill(pid, kill)
        ended = commands.wait(pid)
        codes = (0, -kill) if kill == signal.SIGKILL else (0, 128 + kill)
        wrong = "" if ended.code == -kill == -signal.SIGKILL else ended.wrong(*codes)
        tally.add(
            "killed at a random moment",
            (signal.Signals(kill).name, number),
            wrong or resumed(commands, folder, expected),
        )


@pytest.mark.parametrize("processes", [2, 10])
def test_processes_on_one_store(
    commands: Commands,
    small_project: Place,
    expected: Digests,
    tally: Tally,
    tmp_path: Path,
    processes: int,
) -> None:
    """Runs with the same first stages, started at once: each ends as if it were alone."""
    for number in range((5 if processes == 2 else 2) if tally.full else 1):
        folder = small_project(tmp_path / f"{number}")
        pids = [
            commands.start(folder, *RUN, "--out", f"runs/{index}", environment=store_of(folder))
            for index in range(processes if tally.full else min(processes, 3))
        ]
        ended: list[Ended] = [commands.wait(pid, 300) for pid in pids]
        for index, each in enumerate(ended):
            wrong = each.wrong(0) or ("" if digests(folder / "runs" / str(index)) == expected else "other bytes")
            tally.add(f"{processes} processes on one store", (number, index), wrong)
