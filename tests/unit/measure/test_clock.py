"""Clocks around blocks, and readings of the machine from its files."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from pipeline.measure import clock

if TYPE_CHECKING:
    from pathlib import Path


def write(root: Path, name: str, text: str) -> None:
    """Write a file below a pretended root."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_block_has_both_clocks_for_every_call() -> None:
    """Each call gets a wall time and a CPU time, both never negative."""
    calls: list[int] = []
    readings = clock.time_block(lambda: calls.append(1), 5)
    assert len(calls) == len(readings.wall_ns) == len(readings.cpu_ns) == 5
    assert min(readings.wall_ns + readings.cpu_ns) >= 0
    assert readings.preemptions >= 0


def test_collector_is_off_within_a_block_and_on_again_after_a_failure() -> None:
    """The garbage collector does not run between inferences; its state is restored even when a call fails."""
    seen: list[bool] = []

    def fail() -> None:
        seen.append(gc.isenabled())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        clock.time_block(fail, 3)
    assert seen == [False]
    assert gc.isenabled()


def test_frequency_is_the_mean_over_cores(tmp_path: Path) -> None:
    """Kilohertz of each core become a mean in megahertz."""
    for core, kilohertz in enumerate((1_000_000, 3_000_000)):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{kilohertz}\n")
    assert clock.frequency_mhz(tmp_path) == 2000


def test_temperature_is_that_of_the_hottest_zone(tmp_path: Path) -> None:
    """Millidegrees of the zones become degrees of the hottest."""
    for zone, value in enumerate((41_000, 67_500)):
        write(tmp_path, f"sys/class/thermal/thermal_zone{zone}/temp", f"{value}\n")
    assert clock.temperature_c(tmp_path) == 67.5


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    """Without the kernel's files there is no number, and no zero either."""
    assert clock.frequency_mhz(tmp_path) is None
    assert clock.temperature_c(tmp_path) is None
    assert clock.processor_times(tmp_path) is None
    assert clock.steal_share(None, None) is None


def test_steal_is_a_share_of_all_time_between_two_readings(tmp_path: Path) -> None:
    """Guest time, counted within user time, is not counted twice."""
    write(tmp_path, "proc/stat", "cpu  10 0 10 60 5 2 3 10 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert clock.processor_times(tmp_path) == (10, 100)
    assert clock.steal_share((10, 100), (35, 200)) == 0.25


def test_no_time_between_two_readings_gives_no_share() -> None:
    """A share of nothing is absent."""
    assert clock.steal_share((10, 100), (10, 100)) is None
