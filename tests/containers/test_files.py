"""What can be said of the container's files without an engine."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from tests.containers.engine import BUILD_ARGUMENTS
from tests.containers.page import FOLDERS, SOURCES, shell_blocks, short_form
from tests.containers.stand_in import ROOT, default_base, mounted_folders, pip_settings
from tests.optional import found, require

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_no_place_of_packages_is_named() -> None:
    """Images and packages come from where the user's engine and pip get them: no host, no address."""
    assert re.findall(r"https?:|[\w-]+\.(?:org|io|com)/", DOCKERFILE) == []
    assert "/" not in default_base()


def test_indexes_are_arguments_without_a_default() -> None:
    """They are there for who needs them, and do nothing otherwise."""
    for name in BUILD_ARGUMENTS:
        assert re.findall(rf"^ARG {name}.*$", DOCKERFILE, re.MULTILINE).count(f"ARG {name}") >= 1
        assert f"ARG {name}=" not in DOCKERFILE


def test_every_build_of_docker_can_stop_at_its_target() -> None:
    """The pipeline's stages come first: without BuildKit all stages before a target are built."""
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert stages == ["pipeline-packages", "pipeline-wheel", "pipeline", "runtime-packages", "runtime"]


def test_what_is_copied_is_sent() -> None:
    """.dockerignore lets through what the Dockerfile copies from the sources, and a bundle."""
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert {name for names in copied for name in names.split() if "$" not in name} == sent - {"bundle"}
    assert sent & {*SOURCES, *FOLDERS} == {*SOURCES, *FOLDERS} - {"Dockerfile", ".dockerignore"}
    assert "*" in lines


def test_the_page_builds_both_images_and_runs_them_closed() -> None:
    """Every image that the page runs has no network and a root that cannot be written to."""
    lines = short_form(shell_blocks()).replace("\\\n", " ").splitlines()
    builds = [line for line in lines if line.startswith("docker build")]
    runs = [line for line in lines if line.strip().startswith("docker run")]
    assert [re.findall(r"--target (\S+)", line) for line in builds] == [["pipeline"], ["runtime"]]
    assert len(runs) == 3
    assert all("--rm --network none --read-only" in line for line in runs)
    assert sum(line.startswith("secateur ") for line in lines) == 3


def test_the_pages_lines_are_shell() -> None:
    """Bash reads them without complaint."""
    require("bash")
    command = [found("bash") or "", "-n", "-c", short_form(shell_blocks())]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


def test_pip_is_told_in_the_stand_in_what_it_is_told_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over files, and what it names on this machine's disk is mounted."""
    index, wheels = tmp_path / "index" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.as_uri())
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    settings = pip_settings()
    assert (settings["extra-index-url"], settings["find-links"]) == (index.as_uri(), str(wheels))
    assert {index.parent, wheels} <= set(mounted_folders())
