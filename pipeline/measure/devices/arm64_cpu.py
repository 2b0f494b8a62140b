"""A root as one emulated processor sees it: with a /proc/cpuinfo that says what the emulator's processor says.

Programs that run under qemu-aarch64 see the host's /proc/cpuinfo, an x86 one as a rule, on which the runtimes fail. The
emulator is asked once for each processor: a few instructions read its identification register and its features.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from pipeline.core.errors import DeviceError, InputError
from pipeline.core.partial import write_whole
from pipeline.core.paths import cache_root
from pipeline.measure.devices.arm64_root import root_python

if TYPE_CHECKING:
    from pathlib import Path

_INSTALL = "install qemu-user (Debian, Ubuntu) or qemu-user-binfmt; the static build cannot count instructions"
#: Names of the bits of AT_HWCAP and AT_HWCAP2, as Linux writes them in /proc/cpuinfo.
HWCAP = """fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3
    sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg""".split()
_HWCAP2 = """dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm
    bf16 dgh rng bti mte ecv afp rpres mte3 sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32
    smefa64""".split()
#: Reads both from getauxval, and MIDR_EL1 by `mrs x0, midr_el1; ret`.
PROBE = """
import ctypes, json, mmap, struct
ask = ctypes.CDLL(None).getauxval
ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(struct.pack("<II", 0xD5380000, 0xD65F03C0))
midr = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(json.dumps([ask(16), ask(26), midr()]))
"""
_CORE = """\
processor\t: {core}
BogoMIPS\t: 100.00
Features\t: {features}
CPU implementer\t: 0x{implementer:02x}
CPU architecture: 8
CPU variant\t: 0x{variant:x}
CPU part\t: 0x{part:03x}
CPU revision\t: {revision}

"""
#: Never taken from a root: the host's own are seen.
_HOSTS_OWN = frozenset("dev proc sys tmp home root run".split())
_PROBE_S = 60


def emulator() -> str:
    """Return the path of qemu-aarch64.

    Raises:
        DeviceError: it is not installed, with what to install.
    """
    found = shutil.which("qemu-aarch64")
    if found is None:
        raise DeviceError(f"qemu-aarch64 was not found: {_INSTALL}")
    return found


def emulator_version() -> str:
    """Return the first line that qemu-aarch64 --version prints."""
    return _output([emulator(), "--version"]).stdout.partition("\n")[0]


def root_for_cpu(root: Path, cpu: str) -> Path:
    """Return a folder for `qemu-aarch64 -cpu CPU -L FOLDER`: links to the root, and a cpuinfo of its own.

    Raises:
        InputError: this QEMU has no such processor; the message lists those that it has.
        DeviceError: QEMU is not installed, or the root's Python does not run.
    """
    key = hashlib.sha256(f"{root.resolve()}\n{emulator_version()}\n{os.cpu_count()}".encode()).hexdigest()[:16]
    view = cache_root() / "arm64-root" / f"view-{key}-{cpu}"
    if (view / "proc" / "cpuinfo").is_file():
        return view
    cpuinfo = cpuinfo_text(*_probe(root, cpu))
    (view / "proc").mkdir(parents=True, exist_ok=True)
    for entry in root.resolve().iterdir():
        if entry.name not in _HOSTS_OWN and not (view / entry.name).is_symlink():
            (view / entry.name).symlink_to(entry)
    write_whole(view / "proc" / "cpuinfo", cpuinfo)
    return view


def cpuinfo_text(hwcap: int, hwcap2: int, midr: int) -> str:
    """Write /proc/cpuinfo as Linux does on arm64, with as many cores as this machine has."""
    named = [
        name for names, bits in ((HWCAP, hwcap), (_HWCAP2, hwcap2)) for i, name in enumerate(names) if bits >> i & 1
    ]
    fields = {
        "features": " ".join(named),
        "implementer": midr >> 24 & 0xFF,
        "variant": midr >> 20 & 0xF,
        "part": midr >> 4 & 0xFFF,
        "revision": midr & 0xF,
    }
    return "".join(_CORE.format(core=core, **fields) for core in range(os.cpu_count() or 1))


def guest_environment() -> dict[str, str]:
    """Return the environment for an emulated Python: nothing that points at this machine's Python or libraries."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_", "QEMU_"))}
    fixed = {"PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, **fixed, "ORT_DISABLE_TELEMETRY": "1"}


def _probe(root: Path, cpu: str) -> tuple[int, int, int]:
    command = [emulator(), "-cpu", cpu, "-L", str(root), str(root_python(root)), "-S", "-c", PROBE]
    done = _output(command)
    if "unable to find CPU model" in done.stderr:
        known = _output([emulator(), "-cpu", "help"]).stdout.split()
        allowed = ", ".join(word for word in known if word.islower())
        raise InputError(f'found the processor "{cpu}", allowed with {emulator_version()}: {allowed}')
    if done.returncode:
        raise DeviceError(f"the Python in {root} does not run under qemu-aarch64:\n  {done.stderr.strip()}")
    hwcap, hwcap2, midr = json.loads(done.stdout)
    return hwcap, hwcap2, midr


def _output(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=guest_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{' '.join(command[:3])} did not answer within {_PROBE_S} s") from error
