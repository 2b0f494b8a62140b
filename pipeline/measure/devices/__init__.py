"""One file per kind of device. A device takes files and starts the worker; all else is the same everywhere.

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

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path


class Device(Protocol):
    """Where files are measured."""

    @property
    def url(self) -> str:
        """The device as a user writes it: `local`, `ssh://...`, `adb://...`, `qemu://...`."""

    @property
    def emulated(self) -> bool:
        """Whether its times are those of an emulator: never shown, only outputs and instructions count."""

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Bring files to the device and return the path there of each.

        A key is `<digest>/<file name>`; files of one digest end up in one folder under these names. What is there
        already, with the same size, is not sent again. The worker checks contents by hash when it opens a file.

        Raises:
            DeviceError: the device cannot be reached or refuses, or its disk is full; nothing half-written is left
                under a final name.
        """

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker there, with pipes for stdin, stdout and stderr.

        Raises:
            DeviceError: it cannot be started. A worker that dies at once is found by the first request.
        """

    def close(self) -> None:
        """Let go of everything on this side; files on the device stay for the next time."""
