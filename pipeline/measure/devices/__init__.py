"""One file per kind of device. A device takes files and runs its Python on one of them, such as the worker.

| written                      | what it is                                                                            |
|------------------------------|---------------------------------------------------------------------------------------|
| `local`                      | this machine, with the Python that runs this program                                  |
| `ssh://[user@]host[:port]`   | a machine with sshd, python3, numpy and a runtime; the system's ssh and its settings  |
| `adb://serial`               | a board with adbd (`adb devices` lists it), python3, numpy and a runtime              |
| `qemu://cpu`                 | an emulated ARM processor such as cortex-a72: outputs and instruction counts, no time |

A registered name (`secateur device add`) stands for one of these with its options. To add a kind: its file with a class
that has the attributes of `Device`, a case in `open_device`, and a row above.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pipeline.measure.devices.record import DeviceRecord


class Device(Protocol):
    """Where files are measured. Nothing is held between two commands; files on it stay for the next time."""

    @property
    def url(self) -> str:
        """The device as a user writes it: `local`, `ssh://...`, `adb://...`, `qemu://...`."""

    @property
    def emulated(self) -> bool:
        """Whether its times are those of an emulator: never shown, only outputs and instructions count."""

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Bring files to the device and return the path there of each.

        A key is `<digest>/<file name>`, or a longer path; files of one digest end up in one folder under these names.
        What is there already, with the same size, is not sent again: who opens a file there checks its hash.

        Raises:
            DeviceError: the device cannot be reached or refuses, or its disk is full; nothing half-written is left
                under a final name.
        """

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker there, with pipes for stdin, stdout and stderr.

        Raises:
            DeviceError: it cannot be started. A worker that dies at once is found by the first request.
        """

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the Python there on a file that `push` brought, with pipes for stdin, stdout and stderr.

        `script` is its path on the device. `pipeline.measure.connection` waits for its end.

        Raises:
            DeviceError: it cannot be started. How it ends is told by its exit code and its last words.
        """


def open_device(
    device: str | DeviceRecord, *, counts: Path | None = None, note: Callable[[str], None] | None = None
) -> Device:
    """Return the device that a text, a registered name or a record stands for. Nothing is connected or built yet.

    `counts` is the file for instruction counts of an emulated device; `note` is told what it builds.

    Raises:
        InputError: the text is no device and no registered name, or counts are asked of a device that has none.
    """
    from pipeline.measure.devices import record, registry  # noqa: PLC0415 - only what is asked for is loaded

    if isinstance(device, str):
        device = registry.device_record(device)
    address = device.address
    if counts and address.kind != "qemu":
        raise InputError(
            f"found {device.url}, which does not count instructions; allowed: an emulated one such as {record.EXAMPLE}"
        )
    if address.kind == "qemu":
        return _emulated(device, counts, note)
    if address.kind == "ssh":
        from pipeline.measure.devices.ssh import SshDevice  # noqa: PLC0415

        return SshDevice(device)
    if address.kind == "adb":
        from pipeline.measure.devices.adb import AdbDevice  # noqa: PLC0415

        return AdbDevice(device)
    from pipeline.measure.devices.local import LocalDevice  # noqa: PLC0415

    return LocalDevice(device.python) if device.python else LocalDevice()


def _emulated(device: DeviceRecord, counts: Path | None, note: Callable[[str], None] | None) -> Device:
    from pipeline.measure.devices.arm64_root import LIBRARIES, silent  # noqa: PLC0415
    from pipeline.measure.devices.qemu import QemuDevice  # noqa: PLC0415

    libraries = device.libraries or LIBRARIES
    return QemuDevice(device.address.what, device.root, libraries, counts, note or silent)
