"""The lines of docs/containers.md, run once with the engine that is there."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.containers import page
from tests.containers.engine import Engine, UnavailableError, find
from tests.containers.stand_in import ROOT, Base, base_for

LINES_S = 1800


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Return the engine that runs images."""
    try:
        return find(runs=True)
    except UnavailableError as why:
        pytest.skip(f"no engine: {why}")


@pytest.fixture(scope="session")
def base(engine: Engine) -> Base:
    """Return the base image."""
    try:
        return base_for(engine)
    except UnavailableError as why:
        pytest.skip(f"no base image: {why}")


@pytest.fixture(scope="session")
def done(engine: Engine, base: Base, tmp_path_factory: pytest.TempPathFactory) -> page.Done:
    """Run the page's lines in a copy of the sources, with a cache of their own, and print what they took."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in page.SOURCES:
        shutil.copy2(ROOT / name, folder)
    for name in page.FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    programs, log = tmp_path_factory.mktemp("programs"), folder / "calls.tsv"
    page.put_programs(programs, engine, base, log)
    work = folder / "work"
    page.put_data(work)
    volume = f"secateur-test-{os.getpid()}"
    script = page.short_form(page.shell_blocks()).replace("secateur-cache:", f"{volume}:")
    search = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    ran = subprocess.run(command, cwd=folder, env=search, check=False, capture_output=True, text=True, timeout=LINES_S)
    engine.call("volume", "rm", volume)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return page.Done(folder, ran.stdout, tuple(page.calls_of(log)), work.stat().st_uid)
