"""Fetches Debian packages of any architecture, with all that they depend on, and unpacks them into a folder.

Nothing is installed: no maintainer script runs, no root rights and no emulation are needed, and the machine's own
package database stays as it is (apt gets a private one). Sources: the machine's own apt sources, which must have the
architecture (Debian's have).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from pipeline.core.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: The program that is run, and how to get it where it is missing.
PROGRAMS: Mapping[str, str] = {
    "apt-get": "it comes with Debian and Ubuntu",
    "dpkg-deb": "install the package dpkg",
    "tar": "install the package tar",
}
_APT = """\
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::State "{folder}";
Dir::State::Lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}";
"""
LAST_LINES = 6
COMMAND_S = 600


def check_programs(purpose: str, otherwise: str = "") -> None:
    """Raise DeviceError when a program is missing: which, what for, how to get it, and what else would do."""
    for program, remedy in PROGRAMS.items():
        if not shutil.which(program):
            raise DeviceError(f"{program} is needed to {purpose} and was not found: {remedy}{otherwise}")


def download(packages: Sequence[str], architecture: str, folder: Path) -> list[Path]:
    """Download packages and all that they depend on into a new folder, and return the archives, sorted."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    configuration = folder / "apt.conf"
    configuration.write_text(_APT.format(architecture=architecture, folder=folder))
    environment = {**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"}
    run(["apt-get", "-qq", "update"], environment)
    run(["apt-get", "-qq", "-y", "--download-only", "install", *packages], environment)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def unpack(archives: Sequence[Path], root: Path) -> None:
    """Unpack archives into a new folder, in which bin, lib and sbin are those of usr, as Debian has it."""
    for name in ("bin", "lib", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for archive in archives:
        _unpack(archive, root)


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, stdin: subprocess.Popen[bytes] | None = None
) -> None:
    """Run a program to its end; raises DeviceError with its last words when it fails."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=stdin.stdout if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            timeout=COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{command[0]} did not end within {COMMAND_S} s: is there a network?") from error
    if done.returncode:
        words = done.stdout.decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        shown = " ".join(command[:4])
        raise DeviceError("\n  ".join([f"{shown} ... failed (exit code {done.returncode}):", *words]))


def _unpack(archive: Path, root: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as source:  # noqa: S607
        # Files keep no owner: they are this user's, who may not be root.
        options = ["--extract", "--keep-directory-symlink", "--no-same-owner", "--directory", str(root)]
        run(["tar", *options], None, stdin=source)
    if source.returncode:
        raise DeviceError(f"dpkg-deb could not read {archive.name} (exit code {source.returncode}): try again")
