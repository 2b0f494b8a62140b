"""An emulated x86-64 processor with AVX2 and without VNNI, on which 8-bit sums saturate as they do on real ones.

Most machines that quantize have VNNI and never show what a file does on the many processors before it. QEMU's user
emulation runs this program's own Python and runtimes as a Haswell: outputs are those of such a processor, time means
nothing. It needs an x86-64 Linux with qemu-user 7.2 or newer (older ones emulate no AVX2); AVX-512 is not emulated.
"""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.core.errors import DeviceError
from pipeline.measure.devices.arm64_cpu import guest_environment
from pipeline.measure.devices.local import OnThisMachine, started_process

if TYPE_CHECKING:
    import subprocess

PROGRAM = "qemu-x86_64"


@dataclass(frozen=True)
class Avx2Device(OnThisMachine):
    """This machine as a processor without VNNI. What the worker tells of its flags is the host's, and wrong."""

    cpu: str = "Haswell"
    emulated: ClassVar[bool] = True

    @property
    def url(self) -> str:
        """What messages call it."""
        return f"x86-64 emulated as {self.cpu}"

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start this program's own Python on a file, in the emulator.

        Raises:
            DeviceError: this is no x86-64 machine, or qemu-x86_64 is not installed.
        """
        if platform.machine() != "x86_64":
            raise DeviceError(f"found {platform.machine()}; {self.url} needs an x86-64 machine: its Python is run")
        if shutil.which(PROGRAM) is None:
            raise DeviceError(f"{PROGRAM} was not found: install qemu-user (Debian, Ubuntu), version 7.2 or newer")
        return started_process([PROGRAM, "-cpu", self.cpu, sys.executable, script, *arguments], guest_environment())
