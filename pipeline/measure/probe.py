"""Connects to a device and says what is there: Python, packages, processor, and how long an answer takes."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from pipeline.core.runtimes import RUNTIMES, shipping_runtimes
from pipeline.measure.connection import connect
from pipeline.measure.installed import install_line, missing_packages

if TYPE_CHECKING:
    from pipeline.measure.devices import Device

#: Any of these is enough, with numpy.
PACKAGES = tuple(RUNTIMES[name].package for name in shipping_runtimes())
_ASKED = 9


@dataclass(frozen=True)
class DeviceStatus:
    """What a device told of itself.

    `missing` are the packages that it could use and does not have, `install` the line that installs them there; it is
    `ready` with numpy and one runtime. `round_trip_ms` is the median time of a request that does nothing.
    """

    url: str
    emulated: bool
    python: str
    executable: str
    packages: dict[str, str | None]
    fingerprint: dict[str, Any]
    missing: tuple[str, ...]
    install: str | None
    ready: bool
    round_trip_ms: float


def probe_device(device: Device) -> DeviceStatus:
    """Start the worker on a device, ask it, and end it.

    Raises:
        DeviceError: the device cannot be reached, or no worker runs there.
    """
    connection, hello = connect(device)
    with connection:
        waits_ns = []
        for _ in range(_ASKED):
            begun_ns = perf_counter_ns()
            connection.request("sleep", seconds=0)
            waits_ns.append(perf_counter_ns() - begun_ns)
    missing = missing_packages(hello, ("numpy", *PACKAGES))
    return DeviceStatus(
        url=device.url,
        emulated=device.emulated,
        python=hello["python"],
        executable=hello["executable"],
        packages=hello["packages"],
        fingerprint=hello["fingerprint"],
        missing=tuple(missing),
        install=install_line(hello, missing) if missing else None,
        ready="numpy" not in missing and not set(PACKAGES) <= set(missing),
        round_trip_ms=median(waits_ns) / 1e6,
    )
