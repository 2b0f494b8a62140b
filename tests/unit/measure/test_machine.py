"""The machine's fingerprint, read from pretended roots."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import InputError
from pipeline.measure.machine import cgroup_cpus, machine_fingerprint, on_battery, usable_threads
from pipeline.results.measurement import MUST_MATCH

if TYPE_CHECKING:
    from pathlib import Path

X86 = """processor\t: 0
model name\t: Some CPU @ 3 GHz
microcode\t: 0x42
flags\t\t: fpu sse2 avx avx2 fma avx512f avx512_vnni{extra}

processor\t: 1
model name\t: Another CPU
flags\t\t: fpu
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp i8mm sve
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def write(root: Path, name: str, text: str) -> None:
    """Write a file below a pretended root."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_fingerprint_of_this_machine_is_json_with_every_field_that_must_match() -> None:
    """It can be stored, and names all that comparisons need."""
    found = machine_fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert set(MUST_MATCH) <= found.keys()


def test_x86_processor_is_read_from_its_first_core(tmp_path: Path) -> None:
    """Model, microcode and the flags that decide about kernels come from the first core."""
    write(tmp_path, "proc/cpuinfo", X86.format(extra=" hypervisor"))
    write(tmp_path, "proc/meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    found = machine_fingerprint(tmp_path)
    assert found["cpu_model"] == "Some CPU @ 3 GHz"
    assert found["isa"] == ["avx", "avx2", "fma", "avx512f", "avx512_vnni"]
    assert found["microcode"] == "0x42"
    assert found["virtual"] == "vm"
    assert found["memory_bytes"] == 2048 * 1024
    assert found["governor"] == "performance"


def test_arm_processor_is_read_from_its_part_and_features(tmp_path: Path) -> None:
    """ARM tells a part number and features instead of a model name and flags."""
    write(tmp_path, "proc/cpuinfo", ARM)
    found = machine_fingerprint(tmp_path)
    assert found["cpu_model"] == "0xd40"
    assert found["isa"] == ["asimd", "asimddp", "i8mm", "sve"]


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    """An empty root gives None, not a guess."""
    found = machine_fingerprint(tmp_path)
    unknown = ("microcode", "virtual", "memory_bytes", "governor", "cgroup_cpus")
    assert [found[name] for name in unknown] == [None] * len(unknown)


def test_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    """A control group is bound by those above it."""
    write(tmp_path, "proc/self/cgroup", "0::/outer/inner\n")
    write(tmp_path, "sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n")
    write(tmp_path, "sys/fs/cgroup/outer/cpu.max", "150000 100000\n")
    assert cgroup_cpus(tmp_path) == 1.5


@pytest.mark.parametrize(("quota", "cpus"), [("-1", None), ("50000", 0.5)])
def test_quota_of_version_one(tmp_path: Path, quota: str, cpus: float | None) -> None:
    """Control groups v1 write quota and period into two files; -1 is no quota."""
    write(tmp_path, "proc/self/cgroup", "1:cpu:/\n0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cgroup_cpus(tmp_path) == cpus


@pytest.mark.parametrize(("listed", "threads"), [("0\n", 1), ("0,4\n", 2), ("0-1\n", 2), ("0-1,8-9\n", 4)])
def test_siblings_of_a_core_are_counted(tmp_path: Path, listed: str, threads: int) -> None:
    """The kernel lists logical cores, or spans of them."""
    write(tmp_path, "sys/devices/system/cpu/cpu0/topology/thread_siblings_list", listed)
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3600000\n")
    found = machine_fingerprint(tmp_path)
    assert (found["threads_per_core"], found["max_frequency_mhz"]) == (threads, 3600)


@pytest.mark.parametrize(("status", "drained"), [("Discharging", True), ("Charging", False), ("Full", False)])
def test_a_battery_that_is_discharged_is_told(tmp_path: Path, status: str, *, drained: bool) -> None:
    """Without any supply listed nothing is known."""
    assert on_battery(tmp_path) is None
    write(tmp_path, "sys/class/power_supply/AC/type", "Mains\n")
    assert on_battery(tmp_path) is False
    write(tmp_path, "sys/class/power_supply/BAT0/type", "Battery\n")
    write(tmp_path, "sys/class/power_supply/BAT0/status", f"{status}\n")
    assert on_battery(tmp_path) is drained


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("4:memory:/b\n3:cpu,cpuacct:/a/b\n", {"cpu/a/b": (250000, 100000)}, 2.5),
        ("3:cpu,cpuacct:/a/b\n", {"cpu/a/b": (-1, 100000), "cpu/a": (150000, 100000)}, 1.5),
        ("3:cpuacct,cpu:/docker/x\n", {"cpu": (50000, 100000)}, 0.5),
        ("3:cpuset:/a\n", {"cpu/a": (50000, 100000)}, None),
    ],
    ids=["its own", "around it", "seen from inside", "another controller"],
)
def test_quotas_of_the_older_control_groups(
    tmp_path: Path, groups: str, files: dict[str, tuple[int, int]], cpus: float | None
) -> None:
    """The group is the one of the controller, and those around it bind as well."""
    write(tmp_path, "proc/self/cgroup", groups)
    for folder, (quota, period) in files.items():
        write(tmp_path, f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us", f"{quota}\n")
        write(tmp_path, f"sys/fs/cgroup/{folder}/cpu.cfs_period_us", f"{period}\n")
    assert cgroup_cpus(tmp_path) == cpus


@pytest.mark.parametrize(
    ("asked", "quota", "expected"),
    [
        (None, None, (6, "the cores of this process")),
        ("", None, (6, "the cores of this process")),
        (None, "350000 100000", (3, "the control group's quota of 3.5 CPUs")),
        (None, "20000 100000", (1, "the control group's quota of 0.2 CPUs")),
        (None, "800000 100000", (6, "the cores of this process")),
        ("2", "350000 100000", (2, "OMP_NUM_THREADS")),
        (" 12 ", None, (12, "OMP_NUM_THREADS")),
        ("4,2,1", None, (4, "OMP_NUM_THREADS")),
    ],
)
def test_threads_of_training_and_evaluation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    quota: str | None,
    expected: tuple[int, str],
) -> None:
    """What a person set, else the container's whole CPUs, else the cores that this process may run on."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    if quota is not None:
        write(tmp_path, "sys/fs/cgroup/cpu.max", quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(6)))
    assert usable_threads(tmp_path) == expected


@pytest.mark.parametrize("asked", ["0", "-1", "many", "2.5", "9" * 30, ",2"])
def test_a_number_of_threads_that_is_none(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    """Refused: nobody would see that it was not followed."""
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    with pytest.raises(InputError, match=r"found OMP_NUM_THREADS=.*, allowed: a number of threads"):
        usable_threads()
