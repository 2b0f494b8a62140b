"""The same Dockerfile makes an image for arm64, in which the bundle that was measured on x86 verifies.

Programs of that image are emulated: the kernel must know of QEMU (binfmt_misc). As root this is arranged for the time
of the test; else it must be there already.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.measure.devices.arm64_cpu import cpuinfo_text
from tests.containers.image import size_text
from tests.containers.stand_in import ROOT, base_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.containers.engine import Engine
    from tests.containers.page import Done
    from tests.containers.stand_in import Base

IMAGE, CONTAINER = "cells-arm64", "secateur-test-arm64"
KERNEL = Path("/proc/sys/fs/binfmt_misc")
EMULATOR = "qemu-aarch64"
#: What Debian's qemu-user-static registers.
FORMAT = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
#: HWCAP and MIDR of a Cortex-A72. Without a cpuinfo of such a processor, onnxruntime reads the host's and fails.
FEATURES, MIDR = 0x8FF, 0x410FD083
BUILD_S, RUN_S = 900, 180

pytestmark = [pytest.mark.container, pytest.mark.slow]


@pytest.fixture
def emulated() -> Iterator[None]:
    """See that programs for arm64 run; what was arranged for it is taken back."""
    if platform.machine() == "aarch64":
        pytest.skip("this machine is arm64: the other tests are this one")
    if (KERNEL / EMULATOR).exists():
        yield
        return
    if os.geteuid() != 0 or not FORMAT.is_file():
        pytest.skip("programs for arm64 do not run here: install qemu-user-static")
    mounted = not (KERNEL / "register").exists()
    if mounted and subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", KERNEL], check=False).returncode:  # noqa: S607
        pytest.skip("programs for arm64 do not run here: binfmt_misc cannot be mounted")
    (KERNEL / "register").write_text(FORMAT.read_text())
    yield
    (KERNEL / EMULATOR).write_text("-1")
    if mounted:
        subprocess.run(["umount", KERNEL], check=True)  # noqa: S607


@pytest.mark.usefixtures("emulated")
def test_a_bundle_verifies_in_its_arm64_image(engine: Engine, base: Base, done: Done, tmp_path: Path) -> None:
    """The wheels for aarch64 pass the same hashes, and outputs agree within the bundle's tolerance."""
    other = base_of(base, engine, "arm64")
    bundle = done.folder / "work" / "runs" / "cells" / "bundle"
    words = ["--platform", "linux/arm64", "--target", "runtime", "--tag", IMAGE, "--file", str(ROOT / "Dockerfile")]
    built = engine.call("build", *words, *other.options, *engine.build_options, str(bundle), timeout_s=BUILD_S)
    assert built.returncode == 0, built.stdout + built.stderr
    print(f"image-test: {IMAGE} {size_text(engine, IMAGE)}, base {size_text(engine, other.image)}")
    (tmp_path / "cpuinfo").write_text(cpuinfo_text(FEATURES, 0, MIDR))
    options = ["--platform", "linux/arm64", "--network", "none", "--read-only", "--env", "QEMU_CPU=cortex-a72"]
    options += ["--volume", f"{tmp_path / 'cpuinfo'}:/proc/cpuinfo:ro", "--entrypoint", "python", "--name", CONTAINER]
    try:
        ran = engine.call("run", "--rm", *engine.run_options, *options, IMAGE, "verify.py", timeout_s=RUN_S)
    finally:
        engine.call("rm", "--force", CONTAINER)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^self-test +ok +\d+ samples in onnxruntime", ran.stdout, re.MULTILINE)
    assert "another architecture" in ran.stdout
