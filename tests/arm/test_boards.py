"""docs/devices.md, as far as it runs without a board: a loopback sshd and emulated processors stand in for one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.arm.test_clean_environment import NO_INDEX, UNREACHABLE
from tests.pages import DOCS, blocks

if TYPE_CHECKING:
    from pathlib import Path

    from tests.arm.lab import Lab
    from tests.unit.measure.devices.sshd import Sshd

pytestmark = [pytest.mark.arm, pytest.mark.slow]

#: Exit codes of a comparison that was made: a busy machine may leave the answer open.
COMPARED = {0, 3}


def lines_of(title: str) -> list[str]:
    """Return the lines of the section's `sh` block, which are those that run here."""
    (shell,) = (block.text for block in blocks(DOCS / "devices.md", title) if block.language == "sh")
    return shell.splitlines()


def program(file: Path, script: str) -> None:
    """Write a shell script that can be started."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def desk(lab: Lab, tmp_path: Path) -> Path:
    """Return a folder with two bundles, and `secateur` among its programs."""
    for name in ("cells.tar.gz", "main.tar.gz"):
        shutil.copyfile(lab.bundle("ResNet-20 int8 arm_exact").parent / "bundle.tar.gz", tmp_path / name)
    program(tmp_path / "bin" / "secateur", f'exec {sys.executable} -m pipeline "$@"')
    return tmp_path


def follow(lab: Lab, desk: Path, title: str) -> dict[str, str]:
    """Run the lines of a section and return what each printed."""
    environment = {**lab.environment, "PATH": f"{desk / 'bin'}:{lab.environment['PATH']}"}
    printed: dict[str, str] = {}
    for line in lines_of(title):
        command = ["bash", "-euo", "pipefail", "-c", line]
        done = subprocess.run(
            command, cwd=desk, env=environment, check=False, capture_output=True, text=True, timeout=900
        )
        if "pip install" in line and done.returncode and any(text in done.stderr for text in NO_INDEX):
            pytest.skip(UNREACHABLE + done.stderr.strip().splitlines()[-1])
        allowed = COMPARED if line.startswith("secateur compare") else {0}
        assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
        printed[line] = done.stdout
    return printed


def test_any_board_with_ssh(lab: Lab, desk: Path, sshd: Sshd) -> None:
    """With a home and a Python of its own behind ssh, and an alias in the ssh configuration."""
    home = desk / "home"
    program(home / "bin" / "python3", f'exec {sys._base_executable} "$@"')
    search = f"HOME={home}\nPATH={home}/bin:/usr/bin:/bin\nexport HOME PATH"
    sshd.login(f'#!/bin/sh\n{search}\ncd\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    (desk / "config").write_text(
        f"Host pi4\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile {sshd.folder}/user_key\n"
        f"  HostKeyAlias [127.0.0.1]:{sshd.port}\n  UserKnownHostsFile {sshd.folder}/known_hosts\n  LogLevel ERROR\n"
    )
    program(desk / "bin" / "ssh", f'exec {shutil.which("ssh")} -F {desk}/config "$@"')
    printed = list(follow(lab, desk, "Any board with ssh").values())
    check, verified, compared = printed[-3:]
    assert f"{home}/secateur/bin/python" in check
    assert "all 40 outputs have the same bits, as required" in verified
    assert verified.endswith("verified\n")
    assert re.search("PASS|INCONCLUSIVE", compared)
    assert (home / ".cache" / "secateur-worker").is_dir()


@pytest.mark.usefixtures("arm64_root")
def test_without_a_board(lab: Lab, desk: Path) -> None:
    """Emulated processors verify the bundle in both runtimes, and count its instructions."""
    first, second, counted = follow(lab, desk, "Without a board").values()
    assert "qemu://cortex-a72: aarch64, processor 0xd08" in first
    assert "openvino" in second
    assert "PASS" in counted
    assert "instructions" in counted
