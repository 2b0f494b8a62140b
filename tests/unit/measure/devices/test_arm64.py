"""The same worker on an emulated ARM processor: directly, over ssh and over adb; and its instructions, counted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from pipeline.core.errors import DeviceError, InputError
from pipeline.measure.connection import connect
from pipeline.measure.devices import open_device
from pipeline.measure.devices.adb import AdbDevice
from pipeline.measure.devices.arm64_cpu import cpuinfo_text, guest_environment
from pipeline.measure.devices.arm64_root import build_root, root_python
from pipeline.measure.devices.instructions import MAGIC, read_marks
from pipeline.measure.devices.qemu import QemuDevice
from pipeline.measure.devices.ssh import SshDevice
from tests.optional import require

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Adbd
    from sshd import Sshd

pytestmark = pytest.mark.slow

#: Sets a mark, does 20 000 rounds of nothing, and so on; then as much in each of four threads.
LOOP = f"""
import ctypes, threading
mark = ctypes.CDLL(None).prctl
def work():
    for _ in range(20_000):
        pass
for k in range(4):
    mark({MAGIC}, k)
    work()
mark({MAGIC}, 4)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
mark({MAGIC}, 5)
"""
#: Numbers of a matrix product in float32, as the wheels for arm64 compute them.
PRODUCT = """
import json, platform
import numpy as np, onnxruntime
values = np.arange(64, dtype=np.float32).reshape(8, 8) / 7
print(json.dumps([platform.machine(), np.__version__, onnxruntime.__version__, (values @ values).tolist()]))
"""


def marks_of(device: QemuDevice, folder: Path) -> list[tuple[int, int]]:
    """Run the loop on a device that counts and return its marks."""
    assert device.counts
    script = folder / "loop.py"
    script.write_text(LOOP)
    device.counts.unlink(missing_ok=True)
    subprocess.run(device.command(str(script)), env=guest_environment(), check=True, capture_output=True, timeout=300)
    return read_marks(device.counts)


def test_the_worker_answers(arm64_root: Path) -> None:
    """It is an aarch64 Python with the same versions of libraries, on the processor that was asked for."""
    for cpu, part, dot_product in (("cortex-a72", "0xd08", False), ("cortex-a76", "0xd0b", True)):
        device = QemuDevice(cpu, arm64_root)
        connection, told = connect(device)
        connection.close()
        found = told["fingerprint"]
        assert device.emulated
        assert told["executable"] == str(root_python(arm64_root))
        assert (found["architecture"], found["cpu_model"]) == ("aarch64", part)
        assert found["logical_cores"] == os.cpu_count()
        assert ("asimddp" in found["isa"]) == dot_product


def test_libraries_compute(arm64_root: Path) -> None:
    """Both load and give this machine's numbers, up to rounding, in the same versions."""
    command = QemuDevice("cortex-a72", arm64_root).command("-c", PRODUCT)
    done = subprocess.run(command, env=guest_environment(), check=True, capture_output=True, text=True, timeout=300)
    machine, *versions, product = json.loads(done.stdout)
    values = np.arange(64, dtype=np.float32).reshape(8, 8) / 7
    assert machine == "aarch64"
    assert versions == [np.__version__, onnxruntime.__version__]
    np.testing.assert_allclose(np.array(product, np.float32), values @ values, rtol=1e-5)


def test_counts_repeat(arm64_root: Path, tmp_path: Path) -> None:
    """The same work counts the same twice in a process and in two processes; threads lose nothing."""
    device = QemuDevice("cortex-a72", arm64_root, counts=tmp_path / "counts, of a loop")
    first, second = marks_of(device, tmp_path), marks_of(device, tmp_path)
    assert [mark for mark, _ in first] == [0, 1, 2, 3, 4, 5]
    spent = [[after[1] - before[1] for before, after in pairwise(run)] for run in (first, second)]
    loop = min(spent[0][:4])
    assert loop > 20_000
    assert max(spent[0][1:4]) < 1.01 * loop
    assert abs(min(spent[1][:4]) - loop) < 1e-3 * loop
    assert 3.5 * loop < spent[0][4] < 4.5 * loop


@pytest.mark.usefixtures("arm64_root")
def test_inferences_are_counted_while_the_worker_lives(write_onnx: Callable[..., Path], tmp_path: Path) -> None:
    """A start empties the file; two marks for each inference are there when the answer is, and a wider one has more."""
    counts = tmp_path / "counts"
    counts.write_text("1 1\n")
    device = open_device("qemu://cortex-a72", counts=counts)
    least = []
    connection, _ = connect(device)
    with connection:
        for subject, width in enumerate((4, 64)):
            path = write_onnx(f"{width}.onnx", width=width)
            (there,) = device.push({f"digest/{path.name}": path}).values()
            sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
            terms = {"runtime": "onnxruntime", "threads": 1, "batch": 1, "shapes": {}}
            connection.request("create", subject=subject, file={"path": there, "sha256": sha256, **terms}, seed=0)
            connection.request("count", subject=subject, repeats=3)
            marks = read_marks(counts)[-6:]
            assert [mark for mark, _ in marks] == list(range(6))
            least.append(min(marks[i + 1][1] - marks[i][1] for i in (0, 2, 4)))
        assert len(read_marks(counts)) == 12
    assert 1000 < least[0] < least[1]


def test_an_ssh_device_that_is_arm64(sshd: Sshd, arm64_programs: Path) -> None:
    """Over ssh, python3 on the device's PATH is an aarch64 one: so is the worker."""
    sshd.login(f'#!/bin/sh\nPATH={arm64_programs}:$PATH\nexport PATH\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    connection, told = connect(SshDevice(sshd.record()))
    connection.close()
    assert told["fingerprint"]["architecture"] == "aarch64"
    assert told["packages"]["onnxruntime"]


def test_an_adb_device_that_is_arm64(adbd: Callable[..., Adbd], arm64_programs: Path) -> None:
    """Over adb as well."""
    connection, told = connect(AdbDevice(adbd("--path", str(arm64_programs)).record()))
    connection.close()
    assert told["fingerprint"]["architecture"] == "aarch64"


def test_a_processor_that_qemu_does_not_know(arm64_root: Path) -> None:
    """The message lists those that this QEMU has."""
    with pytest.raises(InputError, match=r'found the processor "cortex-z1", allowed with .*: .*cortex-a72'):
        QemuDevice("cortex-z1", arm64_root).start()


def test_the_root_is_built_once(arm64_root: Path) -> None:
    """A second call finds it and says nothing."""
    notes: list[str] = []
    assert build_root(note=notes.append) == arm64_root
    assert notes == []


def test_a_root_without_python(tmp_path: Path) -> None:
    """A folder that is no root is refused with what to do."""
    require("qemu-aarch64")
    with pytest.raises(DeviceError, match=r"holds no usr/bin/python3\.\*: give a root with Python"):
        QemuDevice("cortex-a72", tmp_path).command()


def test_cpuinfo_is_written_as_linux_does() -> None:
    """The features, the maker and the part are the bits of the processor's own registers."""
    text = cpuinfo_text(0b11 | 1 << 20, 1 << 13, 0x414FD0B1)
    first, *others = text.removesuffix("\n\n").split("\n\n")
    fields = dict(line.replace("\t", "").split(": ") for line in first.splitlines())
    assert fields["Features"] == "fp asimd asimddp i8mm"
    assert (fields["CPU implementer"], fields["CPU part"]) == ("0x41", "0xd0b")
    assert (fields["CPU variant"], fields["CPU revision"]) == ("0x4", "1")
    assert len(others) == (os.cpu_count() or 1) - 1
