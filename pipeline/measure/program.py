"""A Python program on a device, from its start to its end."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.errors import DeviceError

if TYPE_CHECKING:
    from pipeline.measure.devices import Device


class Ended(NamedTuple):
    """How a program ended: its exit code, what it printed, and what it said on stderr."""

    code: int
    out: str
    words: str


def run_program(device: Device, script: str, *arguments: str, limit_s: float) -> Ended:
    """Run Python on a file that was pushed to a device, to its end; nothing goes on here afterwards.

    Raises:
        DeviceError: it cannot be started, or does not end within `limit_s`.
    """
    with device.run(script, *arguments) as process:
        try:
            out, words = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise DeviceError(
                f"{device.url}: {script.rpartition('/')[2]} did not end within {limit_s:.0f} s; is the device alive?"
            ) from error
        finally:
            process.kill()
    return Ended(process.returncode, out.decode(errors="replace"), words.decode(errors="replace"))
