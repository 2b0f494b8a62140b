"""Devices that exist only while a test runs: a loopback sshd, a stand-in for adbd, an emulated processor."""

from __future__ import annotations

import importlib.util
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.errors import DeviceError
from pipeline.measure.devices.arm64_root import build_root
from pipeline.measure.devices.qemu import QemuDevice
from pipeline.measure.devices.record import DeviceRecord
from tests.optional import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
SPACE_KIB = 512


def load_sshd() -> Any:  # noqa: ANN401 - a module
    """Load sshd.py beside this file by its path: tests are no package."""
    spec = importlib.util.spec_from_file_location("secateur_tests_sshd", HERE / "sshd.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SSHD = load_sshd()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Any]:
    """Return a running sshd (sshd.py)."""
    require("sshd", "ssh", "ssh-keygen")
    server = SSHD.Sshd(tmp_path / "sshd")
    yield server
    server.close()


class Adbd:
    """A stand-in for a device, and an adb server of its own that knows it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port, self.server_port = SSHD.free_port(), SSHD.free_port()
        self.files = folder / "device"
        self.url = f"adb://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "HOME": str(folder)}
        self._options = options
        self.plug()
        self.adb("start-server")
        self.adb("connect", f"127.0.0.1:{self.port}")

    def plug(self) -> None:
        """Start the device."""
        command = [sys.executable, str(HERE / "fake_adbd.py"), str(self.port), *self._options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the stand-in for adbd does not listen")

    def adb(self, *arguments: str) -> int:
        """Run adb with the server of this test, none of whose pipes the server may keep."""
        nothing = subprocess.DEVNULL
        command = ["adb", "-P", str(self.server_port), *arguments]
        return subprocess.run(
            command, env=self._environment, stdin=nothing, stdout=nothing, stderr=nothing, timeout=60, check=False
        ).returncode

    def record(self, **options: Any) -> DeviceRecord:  # noqa: ANN401
        """Return the device."""
        given = {"url": self.url, "server_port": self.server_port, "folder": str(self.files)}
        return DeviceRecord.model_validate({**given, **options})

    def unplug(self) -> None:
        """End the device."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """End both."""
        self.adb("kill-server")
        self.unplug()


@pytest.fixture
def adbd(tmp_path: Path) -> Iterator[Callable[..., Adbd]]:
    """Return a function that starts a stand-in for a device with options of fake_adbd.py."""
    require("adb")
    started: list[Adbd] = []

    def start(*options: str) -> Adbd:
        folder = tmp_path / f"adbd{len(started)}"
        folder.mkdir()
        started.append(Adbd(folder, *options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def arm64_root() -> Path:
    """Return the arm64 root from the real cache; the first build takes half a minute."""
    require("qemu-aarch64", "apt-get", "dpkg-deb")
    try:
        return build_root()
    except DeviceError as error:
        pytest.skip(f"no arm64 root can be built here: {error}")


@pytest.fixture
def arm64_programs(arm64_root: Path, tmp_path: Path) -> Path:
    """Return a folder with a python3 that is an emulated arm64 one, to go first on a device's PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    command = shlex.join(QemuDevice("cortex-a72", arm64_root).command("-s"))
    (folder / "python3").write_text(f'#!/bin/sh\nunset PYTHONPATH PYTHONHOME\nexec {command} "$@"\n')
    (folder / "python3").chmod(0o755)
    return folder


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    require("mount", "umount")
    command = ["mount", "-t", "tmpfs", "-o", f"size={SPACE_KIB}k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    command = ["umount", "--lazy", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
