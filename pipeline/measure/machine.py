"""Fingerprint of the machine: what decides how fast a network runs on it, and what is good to know beside it."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.core.errors import InputError
from pipeline.measure.clock import ROOT

if TYPE_CHECKING:
    from pathlib import Path

#: Digits of a number of threads: more is none.
MOST_DIGITS = 4
#: Instruction sets by which the runtimes choose their kernels, as /proc/cpuinfo names them (x86 flags, ARM features).
DISPATCH_FLAGS: tuple[str, ...] = tuple(
    "avx avx2 fma f16c avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 avx_vnni amx_tile "
    "amx_int8 amx_bf16 asimd asimddp asimdhp i8mm bf16 sve sve2 sme".split()
)


def machine_fingerprint(root: Path = ROOT) -> dict[str, Any]:
    """Describe this machine. What cannot be read is None; `root` is where /proc and /sys are looked for."""
    cpuinfo = _cpuinfo(root)
    flags = frozenset(cpuinfo.get("flags", cpuinfo.get("Features", "")).split())
    return {
        "cpu_model": cpuinfo.get("model name", cpuinfo.get("CPU part", platform.processor() or None)),
        "architecture": platform.machine(),
        "isa": [flag for flag in DISPATCH_FLAGS if flag in flags],
        "microcode": cpuinfo.get("microcode"),
        "virtual": _virtual(root, flags),
        "logical_cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cgroup_cpus": cgroup_cpus(root),
        "memory_bytes": _memory_bytes(root),
        "system": platform.system(),
        "kernel": platform.release(),
        "governor": _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "max_frequency_mhz": _max_frequency_mhz(root),
        "threads_per_core": _threads_per_core(root),
        "on_battery": on_battery(root),
    }


def on_battery(root: Path = ROOT) -> bool | None:
    """Say whether a battery is being discharged; None where the kernel lists no supply of power."""
    supplies = sorted(root.glob("sys/class/power_supply/*/type"))
    batteries = [file.parent for file in supplies if _text(file) == "Battery"]
    return any(_text(each / "status") == "Discharging" for each in batteries) if supplies else None


def _max_frequency_mhz(root: Path) -> float | None:
    kilohertz = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return int(kilohertz) / 1000 if kilohertz else None


def _threads_per_core(root: Path) -> int | None:
    """Return how many logical cores share the first physical one (a list such as `0,4` or `0-1`)."""
    listed = _text(root / "sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    spans = [[int(end) for end in part.split("-")] for part in listed.split(",")] if listed else []
    return sum(span[-1] - span[0] + 1 for span in spans) or None


class Threads(NamedTuple):
    """How many threads training and evaluation use, and what says so, in words."""

    number: int
    source: str


def usable_threads(root: Path = ROOT) -> Threads:
    """Return OMP_NUM_THREADS where it is set, else the whole CPUs of the container's quota, else the cores.

    Cores are those that this process may run on; a quota of less than one CPU gives one thread.

    Raises:
        InputError: OMP_NUM_THREADS is no number of threads.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    if asked:
        first = asked.partition(",")[0].strip()  # a list has the threads of nested regions behind it
        if not (first.isdecimal() and len(first) <= MOST_DIGITS and int(first)):
            raise InputError(f'found OMP_NUM_THREADS="{asked}", allowed: a number of threads such as 4, or unset')
        return Threads(int(first), "OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_cpus(root)
    if quota is not None and quota < cores:
        return Threads(max(1, int(quota)), f"the control group's quota of {quota:g} CPUs")
    return Threads(cores, "the cores of this process")


def cgroup_cpus(root: Path = ROOT) -> float | None:
    """Return the CPU quota of this process's control group in CPUs (1.5: one and a half); None without a quota.

    The smallest quota on the way up counts, with control groups v1 as with v2.
    """
    texts = [_text(level / "cpu.max") for level in _levels(root, "", "sys/fs/cgroup")]
    texts += [
        f"{_text(level / 'cpu.cfs_quota_us')} {_text(level / 'cpu.cfs_period_us')}"
        for level in _levels(root, "cpu", "sys/fs/cgroup/cpu")
    ]
    return min((quota for quota in map(_quota, texts) if quota is not None), default=None)


def _levels(root: Path, controller: str, mount: str) -> list[Path]:
    """Return the folders of the process's group and of all around it; without a controller those of v2.

    A line of /proc/self/cgroup is `number:controllers:path`, with no controllers for v2.
    """
    lines = (_text(root / "proc/self/cgroup") or "").splitlines()
    fields = [line.split(":", 2) for line in lines if line.count(":") > 1]
    path = next((each[2].strip("/") for each in fields if controller in each[1].split(",")), "")
    group = root / mount / path
    return [group, *list(group.parents)[: len(group.relative_to(root / mount).parts)]]


def _quota(text: str | None) -> float | None:
    """Read `<quota> <period>` in microseconds; `max`, -1 or a missing file is no quota."""
    quota, _, period = (text or "").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _virtual(root: Path, flags: frozenset[str]) -> str | None:
    """Say `vm` or `bare`; None where the processor does not tell (outside x86 without a Xen-like interface)."""
    if "hypervisor" in flags or (root / "sys/hypervisor/type").is_file():
        return "vm"
    return "bare" if platform.machine() in {"x86_64", "AMD64"} and flags else None


def _cpuinfo(root: Path) -> dict[str, str]:
    first, _, _ = (_text(root / "proc/cpuinfo") or "").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory_bytes(root: Path) -> int | None:
    lines = (_text(root / "proc/meminfo") or "").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")), None)


def _text(file: Path) -> str | None:
    return file.read_text().strip() if file.is_file() else None
