"""Emulated processors, and searches without a clock."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError
from pipeline.measure.devices.arm64_root import build_root
from pipeline.measure.devices.qemu import QemuDevice
from pipeline.precision.avx2 import PROGRAM, Avx2Device
from tests.optional import require
from tests.unit.precision.search_fixtures import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def arm64() -> Callable[[str], QemuDevice]:
    """Return a function to emulated ARM processors; the first build of their root takes half a minute."""
    require("qemu-aarch64", "apt-get", "dpkg-deb")
    try:
        root = build_root()
    except DeviceError as error:
        pytest.skip(f"no arm64 root can be built here: {error}")
    return lambda cpu: QemuDevice(cpu, root)


@pytest.fixture(scope="session")
def avx2() -> Avx2Device:
    """Return an emulated processor without VNNI."""
    if platform.machine() != "x86_64":
        pytest.skip("this is no x86-64 machine")
    require(PROGRAM)
    return Avx2Device()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a world whose searches make files as it says."""
    return World(tmp_path).install(monkeypatch)
