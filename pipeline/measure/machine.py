"""Fingerprint of the machine: what decides how fast a network runs on it, and what is good to know beside it."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from pipeline.measure.clock import ROOT

if TYPE_CHECKING:
    from pathlib import Path

#: Instruction sets by which the runtimes choose their kernels, as /proc/cpuinfo names them (x86 flags, ARM features).
DISPATCH_FLAGS: tuple[str, ...] = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "asimdhp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
)


def fingerprint(root: Path = ROOT) -> dict[str, Any]:
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


def cgroup_cpus(root: Path = ROOT) -> float | None:
    """Return the CPU quota of this process's control group in CPUs (1.5: one and a half); None without a quota.

    With control groups v2 the smallest quota on the way up counts; with v1 that of the process's own group.
    """
    path = _group_path(root)
    group = root / "sys/fs/cgroup" / path
    levels = [group, *list(group.parents)[: len(group.relative_to(root / "sys/fs/cgroup").parts)]]
    quotas = [_quota(_text(level / "cpu.max")) for level in levels]
    legacy = root / "sys/fs/cgroup/cpu"
    quotas.append(_quota(f"{_text(legacy / 'cpu.cfs_quota_us')} {_text(legacy / 'cpu.cfs_period_us')}"))
    return min((quota for quota in quotas if quota is not None), default=None)


def _group_path(root: Path) -> str:
    """Return the process's place in the v2 hierarchy, relative to its mount; empty at the top or without v2."""
    groups = _text(root / "proc/self/cgroup") or ""
    return next((line.removeprefix("0::").strip("/") for line in groups.splitlines() if line.startswith("0::")), "")


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
    """Return the fields of the first core in /proc/cpuinfo."""
    first, _, _ = (_text(root / "proc/cpuinfo") or "").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _memory_bytes(root: Path) -> int | None:
    lines = (_text(root / "proc/meminfo") or "").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")), None)


def _text(file: Path) -> str | None:
    return file.read_text().strip() if file.is_file() else None
