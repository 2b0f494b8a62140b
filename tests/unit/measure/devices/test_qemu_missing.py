"""What is told where a program that the emulated device needs is missing or fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError
from pipeline.measure.devices import arm64_root, instructions
from pipeline.measure.devices.arm64_cpu import guest_environment
from pipeline.measure.devices.qemu import QemuDevice
from tests.optional import require

if TYPE_CHECKING:
    from pathlib import Path

#: A stand-in for a program.
SCRIPT = "#!/bin/sh\n{}\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put(folder: Path, name: str, script: str = "exit 0") -> None:
    """Make a program."""
    (folder / name).write_text(SCRIPT.format(script))
    (folder / name).chmod(0o755)


@pytest.mark.usefixtures("programs")
def test_no_qemu() -> None:
    """The emulator's package is named before anything is built."""
    with pytest.raises(DeviceError, match="qemu-aarch64 was not found: install qemu-user"):
        QemuDevice("cortex-a72").start()


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb", "tar"])
def test_no_program_to_build_a_root(programs: Path, missing: str) -> None:
    """Each program is named with what to do without it."""
    for name in {"apt-get", "dpkg-deb", "tar"} - {missing}:
        put(programs, name)
    with pytest.raises(DeviceError, match=f"{missing} is needed to build an arm64 root and was not found: "):
        arm64_root.build_root()


def test_a_program_that_fails(programs: Path, tmp_path: Path) -> None:
    """The failing command and its last words are told, and nothing half-built is left."""
    put(programs, "apt-get", "echo 'E: Failed to fetch InRelease' >&2; exit 100")
    put(programs, "dpkg-deb")
    put(programs, "tar")
    with pytest.raises(DeviceError, match=r"apt-get -qq update ... failed \(exit code 100\):\n  E: Failed to fetch"):
        arm64_root.build_root()
    assert list((tmp_path / "cache" / "secateur" / "arm64-root").iterdir()) == []


def test_a_library_that_is_not_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A root takes the versions that are installed here: there must be one."""
    with pytest.raises(DeviceError, match="no-such-library is not installed here"):
        arm64_root.build_root(["no-such-library"])
    monkeypatch.undo()


def test_a_qemu_without_plugins(programs: Path, tmp_path: Path) -> None:
    """The static emulator cannot count: the message names the other one."""
    put(programs, "qemu-aarch64", "echo 'usage: qemu-aarch64'")
    device = QemuDevice("cortex-a72", tmp_path, counts=tmp_path / "counts")
    with pytest.raises(DeviceError, match="cannot load plugins: install the dynamic qemu-user"):
        device._plugin(tmp_path / "counts")


@pytest.mark.usefixtures("programs")
def test_no_compiler() -> None:
    """The plugin is compiled here: the message says what to install."""
    with pytest.raises(DeviceError, match="needs a C compiler and none was found: install gcc"):
        instructions.plugin_library("qemu-aarch64 version 7.2.22")


def test_a_compiler_that_fails(programs: Path) -> None:
    """Its words are told, and there is no library afterwards."""
    put(programs, "cc", "echo 'inttypes.h: No such file' >&2; exit 1")
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"install libc6-dev\?\n  inttypes.h: No such file"):
            instructions.plugin_library("qemu-aarch64 version 7.2.22")


def test_the_plugin_is_compiled_once() -> None:
    """A second call gives the same file; a QEMU from version 9 on gets the newer interface."""
    require("gcc")
    first = instructions.plugin_library("qemu-aarch64 version 7.2.22")
    written = first.stat().st_mtime_ns
    assert instructions.plugin_library("qemu-aarch64 version 8.1.0").stat().st_mtime_ns == written
    newer = instructions.plugin_library("qemu-aarch64 version 10.0.2")
    assert newer != first
    assert newer.stat().st_size > 0


def test_marks_are_whole_lines(tmp_path: Path) -> None:
    """A line that is half written is not read; a file that is not there yet has no marks."""
    file = tmp_path / "counts"
    assert instructions.read_marks(file) == []
    file.write_text("1 1000\n2 20")
    assert instructions.read_marks(file) == [(1, 1000)]


def test_the_emulated_python_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's Python or libraries is passed on, and hashes are fixed."""
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "QEMU_CPU"):
        monkeypatch.setenv(name, "/wrong")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = guest_environment()
    assert "/wrong" not in found.values()
    assert (found["PYTHONHASHSEED"], found["ORT_DISABLE_TELEMETRY"], found["OMP_NUM_THREADS"]) == ("0", "1", "1")
