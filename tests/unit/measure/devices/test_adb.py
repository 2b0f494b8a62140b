"""The real adb client against a stand-in for a device's adbd (fake_adbd.py); no Android is involved."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError, InputError
from pipeline.measure.connection import connect
from pipeline.measure.devices.adb import AdbDevice
from pipeline.measure.devices.record import DeviceRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Adbd

PYTHON = sys.executable


def write(folder: Path, **sizes: int) -> dict[str, Path]:
    """Write files of these sizes and return them by the names that they get on a device."""
    files = {}
    for name, size in sizes.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
        files[f"digest-{name}/{path.name}"] = path
    return files


def everything(folder: Path) -> set[str]:
    """Return all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_worker_answers(adbd: Callable[..., Adbd], tmp_path: Path) -> None:
    """Files arrive whole under their names alone, and the worker says hello; a second push sends nothing."""
    server = adbd()
    device = AdbDevice(server.record(python=PYTHON))
    files = write(tmp_path, first=300_000, second=0)
    there = device.push(files)
    connection, told = connect(device)
    connection.close()
    before = {name: Path(path).stat().st_ino for name, path in there.items()}
    assert device.push(files) == there
    assert told["executable"] == PYTHON
    assert {name for name in everything(server.files) if not name.startswith("worker/")} == set(files)
    for name, path in files.items():
        assert Path(there[name]).read_bytes() == path.read_bytes()
        assert Path(there[name]).stat().st_mode & 0o777 == 0o600
        assert Path(there[name]).stat().st_ino == before[name]


def test_refusals_of_a_device(adbd: Callable[..., Adbd], tmp_path: Path) -> None:
    """No Python, a folder that cannot be made, hostile names: each is told, and nothing is run or left."""
    server = adbd()
    marker = tmp_path / "marker"
    with pytest.raises(DeviceError, match="no python9 there: install Python 3"):
        AdbDevice(server.record(python="python9")).start()
    with pytest.raises(DeviceError, match=r"no \$\(touch .*\) there"):
        AdbDevice(server.record(python=f"$(touch {marker})")).start()
    with pytest.raises(DeviceError, match="cannot be created or entered"):
        AdbDevice(server.record(python=PYTHON, folder=f"{__file__}/below")).push({})
    with pytest.raises(InputError, match="rename the file"):
        AdbDevice(server.record(python=PYTHON)).push({"digest/a;b": Path(__file__)})
    hostile = server.files / f"; touch {marker.name} '`"
    AdbDevice(server.record(python=PYTHON, folder=str(hostile))).push(write(tmp_path, first=10))
    assert everything(hostile) == {"digest-first/first.onnx"}
    assert not marker.exists()


def test_a_full_disk(adbd: Callable[..., Adbd], full_disk: Path, tmp_path: Path) -> None:
    """The message says that the disk is full, and nothing of the file is left."""
    device = AdbDevice(adbd().record(python=PYTHON, folder=str(full_disk / "files")))
    with pytest.raises(DeviceError, match="its disk is full: make room"):
        device.push(write(tmp_path, small=10_000, large=2_000_000))
    assert everything(full_disk) == set()


def test_unplugged_in_the_middle(adbd: Callable[..., Adbd]) -> None:
    """A device that goes between two requests is told, and told as missing at the next start."""
    server = adbd()
    device = AdbDevice(server.record(python=PYTHON))
    connection, _ = connect(device)
    with connection:
        server.unplug()
        with pytest.raises(DeviceError, match="the worker ended during hello"):
            connection.request("hello")
    with pytest.raises(DeviceError, match=r"offline: it does not answer|lists no device"):
        device.start()


def test_a_device_that_is_not_listed(adbd: Callable[..., Adbd]) -> None:
    """The message lists the devices that adb has."""
    server = adbd()
    device = AdbDevice(server.record(url="adb://emulator-5554"))
    with pytest.raises(DeviceError, match=f"no device with that serial number; it lists: 127.0.0.1:{server.port}"):
        device.push({})


def test_a_device_that_does_not_know_this_computer(adbd: Callable[..., Adbd]) -> None:
    """Until the key is confirmed on its screen nothing is possible, which is what the message says."""
    device = AdbDevice(adbd("--unauthorized").record())
    with pytest.raises(DeviceError, match=r"(unauthorized|authorizing): confirm this computer's key"):
        device.start()


def test_adb_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without adb here the message says what to install."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DeviceError, match="adb was not found: install adb"):
        AdbDevice(DeviceRecord(url="adb://emulator-5554")).start()
