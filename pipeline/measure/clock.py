"""Clocks and the state of the machine: wall time, CPU time of the process, preemptions, frequency, heat, steal.

CPU time is that of the whole process, since a runtime may infer in threads of its own. It is blind to waiting, and
counts spinning as work.
"""

from __future__ import annotations

import gc
import os
import resource
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path("/")
_STEAL_FIELD = 7  # user nice system idle iowait irq softirq steal guest guest_nice
_TIME_FIELDS = 8  # guest time is counted within user time already


@dataclass(frozen=True)
class Readings:
    """Nanoseconds of each inference in a block, and the involuntary context switches of the process during it.

    `frequency_mhz` is the cores' mean right after the block; None where the kernel does not tell.
    """

    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...]
    preemptions: int
    frequency_mhz: float | None = None


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector out of the block."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def time_block(run: Callable[[], object], inferences: int, pause_ns: int = 0) -> Readings:
    """Call `run` `inferences` times and read the clocks around each call, with a pause of `pause_ns` before each.

    Without a pause caches and branch predictors are as warm as they get. An application that infers every 30 ms finds
    them colder, and the frequency lower: its latency is that of a block with pauses.
    """
    wall_ns, cpu_ns = [], []
    with _without_collector():
        before = preemptions()
        for _ in range(inferences):
            if pause_ns:
                time.sleep(pause_ns / 1e9)
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            run()
            wall_ns.append(time.perf_counter_ns() - wall)
            cpu_ns.append(time.process_time_ns() - cpu)
        return Readings(tuple(wall_ns), tuple(cpu_ns), preemptions() - before, frequency_mhz())


def joined(parts: Sequence[Readings]) -> Readings:
    """Return the readings of several turns as one block."""
    return Readings(
        tuple(each for part in parts for each in part.wall_ns),
        tuple(each for part in parts for each in part.cpu_ns),
        sum(part.preemptions for part in parts),
        parts[-1].frequency_mhz,
    )


def preemptions() -> int:
    """Return how often the scheduler has taken the CPU from this process against its will."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def frequency_mhz(root: Path = ROOT) -> float | None:
    """Return the mean current frequency of all cores in MHz; None where the kernel does not tell."""
    files = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    kilohertz = [int(file.read_text()) for file in files]
    return sum(kilohertz) / len(kilohertz) / 1000 if kilohertz else None


def temperature_c(root: Path = ROOT) -> float | None:
    """Return the temperature of the hottest thermal zone in degrees Celsius; None where there is no sensor."""
    files = sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))
    return max((int(file.read_text()) / 1000 for file in files), default=None)


def processor_times(root: Path = ROOT) -> tuple[int, int] | None:
    """Return (stolen, all) clock ticks of all cores since boot; None where the kernel does not tell."""
    file = root / "proc/stat"
    if not file.is_file():
        return None
    ticks = [int(field) for field in file.read_text().split("\n", 1)[0].split()[1 : _TIME_FIELDS + 1]]
    return (ticks[_STEAL_FIELD], sum(ticks)) if len(ticks) == _TIME_FIELDS else None


def steal_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    """Return the share of CPU time (0 to 1) that the hypervisor gave to others between two `processor_times`."""
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
