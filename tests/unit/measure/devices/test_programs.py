"""A Python file that is pushed to a device of any kind and run there to its end."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError
from pipeline.measure.connection import run_program
from pipeline.measure.devices.adb import AdbDevice
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.devices.qemu import QemuDevice
from pipeline.measure.devices.ssh import SshDevice

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Adbd
    from sshd import Sshd

    from pipeline.measure.devices import Device

#: Tells its arguments, a file beside itself and the processor, and ends with 7; its input has ended already.
SCRIPT = """
import json, pathlib, platform, sys
beside = pathlib.Path(__file__).parent.joinpath("model", "deep", "weights.bin").read_text()
print(json.dumps([sys.argv[1:], sys.stdin.read(), beside, platform.machine()]))
print("last words", file=sys.stderr)
sys.exit(7)
"""
#: What a shell would act upon.
ARGUMENTS = ("--json", "a b", "$(exit 1)", "'\"`", "", "*", "ü")


def run(device: Device, folder: Path) -> str:
    """Push the program with a file two folders below it, run it, and return the processor that it saw."""
    (folder / "model" / "deep").mkdir(parents=True)
    (folder / "model" / "deep" / "weights.bin").write_text("weights")
    (folder / "tell.py").write_text(SCRIPT)
    names = ("tell.py", "model/deep/weights.bin")
    places = device.push({f"digest/{name}": folder / name for name in names})
    code, out, words = run_program(device, places["digest/tell.py"], *ARGUMENTS, limit_s=120)
    arguments, given, beside, machine = json.loads(out)
    assert (code, words.strip()) == (7, "last words")
    assert (arguments, given, beside) == (list(ARGUMENTS), "", "weights")
    return str(machine)


def test_here(tmp_path: Path) -> None:
    """Arguments, output, last words and the exit code pass; the program is given no input."""
    assert run(LocalDevice(), tmp_path) != ""


def test_over_ssh(sshd: Sshd, tmp_path: Path) -> None:
    """No shell on the way acts upon an argument."""
    assert run(SshDevice(sshd.record(python=sys.executable)), tmp_path) != ""


def test_over_adb(adbd: Callable[..., Adbd], tmp_path: Path) -> None:
    """Nor over adb, with a folder within a folder."""
    assert run(AdbDevice(adbd().record(python=sys.executable)), tmp_path) != ""


@pytest.mark.slow
def test_in_the_emulator(arm64_root: Path, tmp_path: Path) -> None:
    """The emulated Python runs it."""
    assert run(QemuDevice("cortex-a72", arm64_root), tmp_path) == "aarch64"


def test_a_program_that_does_not_end(tmp_path: Path) -> None:
    """It is ended when its time is over, and the message says which it was."""
    script = tmp_path / "wait.py"
    script.write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(DeviceError, match=r"local: wait\.py did not end within 1 s"):
        run_program(LocalDevice(), str(script), limit_s=1)


def test_a_python_that_is_gone(sshd: Sshd, tmp_path: Path) -> None:
    """The shell there says so, as it does of any program."""
    device = SshDevice(sshd.record(python=str(tmp_path / "python9")))
    code, _, words = run_program(device, "/nowhere.py", limit_s=60)
    assert code == 127
    assert "python9" in words


def test_a_line_that_is_cut(sshd: Sshd) -> None:
    """A failure of ssh itself is an exit code with its words."""
    device = SshDevice(sshd.record(python=sys.executable))
    sshd.close()
    code, _, words = run_program(device, "/nowhere.py", limit_s=60)
    assert code == 255
    assert "Connection refused" in words
