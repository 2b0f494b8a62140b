"""An emulated ARM processor on this machine: outputs are exact, instructions can be counted, time means nothing.

QEMU translates instructions, 60 to 600 times slower than the same work here and unevenly: int8 looks fast beside fp32.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from pipeline.core.errors import DeviceError
from pipeline.measure.devices.arm64_cpu import emulator, emulator_version, guest_environment, root_for_cpu
from pipeline.measure.devices.arm64_root import LIBRARIES, build_root, root_python, silent
from pipeline.measure.devices.instructions import plugin_library
from pipeline.measure.devices.local import OnThisMachine, started_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class QemuDevice(OnThisMachine):
    """One processor that QEMU knows, such as cortex-a72.

    `root` is a folder with the files of an arm64 system; without one it is built, with `libraries`. With `counts`, the
    instructions executed at each mark are appended to that file (`pipeline.measure.devices.instructions`); it is
    emptied when a worker starts. `note` is told what is being built.
    """

    cpu: str
    root: Path | None = None
    libraries: tuple[str, ...] = LIBRARIES
    counts: Path | None = None
    note: Callable[[str], None] = silent
    emulated: ClassVar[bool] = True

    @property
    def url(self) -> str:
        """The device as a user writes it."""
        return f"qemu://{self.cpu}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the worker in the emulator; errors are those of `command`."""
        if self.counts:
            self.counts.write_bytes(b"")
        return super().start()

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the emulated Python on a file; errors are those of `command`."""
        return started_process(self.command(script, *arguments), guest_environment())

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs the emulated Python with these arguments, under `guest_environment()`.

        A root that is not there is built first.

        Raises:
            DeviceError: QEMU or a compiler is missing, with what to install, or the root cannot be built.
            InputError: QEMU has no such processor.
        """
        qemu = emulator()
        root = self.root or build_root(self.libraries, note=self.note)
        python = root_python(root)
        view = root_for_cpu(root, self.cpu)
        plugin = ["-plugin", self._plugin(self.counts)] if self.counts else []
        return [*_fixed_addresses(), qemu, "-cpu", self.cpu, *plugin, "-L", str(view), str(python), *arguments]

    def _plugin(self, counts: Path) -> str:
        """Return the value of -plugin; raises DeviceError when this QEMU has no plugins."""
        told = subprocess.run([emulator(), "-help"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if b"-plugin" not in told.stdout:
            raise DeviceError(f"{emulator()} cannot load plugins: install the dynamic qemu-user, not qemu-user-static")
        library, out = (str(path).replace(",", ",,") for path in (plugin_library(emulator_version()), counts.resolve()))
        return f"{library},out={out}"


@cache
def _fixed_addresses() -> tuple[str, ...]:
    """Return the command that turns off random addresses, which move counts a little; empty where it is not allowed."""
    setarch = shutil.which("setarch")
    if setarch is None:
        return ()
    tried = subprocess.run([setarch, "-R", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return (setarch, "-R") if tried.returncode == 0 else ()
