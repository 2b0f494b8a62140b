"""What disturbs measurements on a device: one function for each cause, from what was read to a sentence of advice.

Each takes `Signs` and returns a `Check`. What a device does not tell is no reason to warn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.measure.regression import FIXED_GOVERNORS, FREQUENCY_MOVED, MOST_PREEMPTED, TEMPERATURE_RISE_C
from pipeline.results.doctor import Check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.results.measurement import Measurement

#: Above this share of stolen CPU time other guests of the host take part in every measurement.
_MUCH_STEAL = 0.02
#: Below this share of the highest frequency a processor is slowed down by heat, power or its governor.
_SLOWED = 0.80


@dataclass(frozen=True)
class Signs:
    """What was read on a device during A/A comparisons. `frequencies_mhz` are the cores' means after each block."""

    fingerprint: Mapping[str, Any]
    threads: int
    load: float | None = None
    steal: float | None = None
    interrupted_share: float = 0.0
    frequencies_mhz: Sequence[float] = ()
    temperatures_c: Sequence[float] = ()

    @property
    def cores(self) -> int | None:
        """The logical cores that the worker may use."""
        affinity = self.fingerprint.get("affinity")
        cores: int | None = len(affinity) if affinity else self.fingerprint.get("logical_cores")
        return cores


def signs_of(measurements: Sequence[Measurement]) -> Signs:
    """Return what measurements in a row read: the first load, later ones being their own work, and the mean steal."""
    subjects = [subject for each in measurements for subject in each.subjects]
    blocks = [block for subject in subjects for session in subject.sessions for block in session.rounds]
    conditions = [state for each in measurements for state in each.conditions]
    steal = [state.steal for state in conditions if state.steal is not None]
    return Signs(
        fingerprint=subjects[0].fingerprint,
        threads=subjects[0].threads,
        load=next((state.load for state in conditions), None),
        steal=sum(steal) / len(steal) if steal else None,
        interrupted_share=sum(block.preemptions > 0 for block in blocks) / len(blocks),
        frequencies_mhz=[block.frequency_mhz for block in blocks if block.frequency_mhz is not None],
        temperatures_c=[state.temperature_c for state in conditions if state.temperature_c is not None],
    )


def governor(signs: Signs) -> Check:
    """Check that the frequency does not follow the load."""
    found = signs.fingerprint.get("governor")
    if found is None or found in FIXED_GOVERNORS:
        return _ok("governor", f"{found}" if found else "not told")
    return _warn(
        "governor",
        f"it is {found}: the clock frequency follows the load; fix it: sudo cpupower frequency-set -g performance",
    )


def frequency(signs: Signs) -> Check:
    """Check that the frequency stood still, and near its highest."""
    found, highest = signs.frequencies_mhz, signs.fingerprint.get("max_frequency_mhz")
    if not found:
        return _ok("frequency", "not told")
    low, high = min(found), max(found)
    text = f"{low:.0f} to {high:.0f} MHz" + (f" of {highest:.0f}" if highest else "")
    if high - low > FREQUENCY_MOVED * high:
        return _warn(
            "frequency", f"it changed, {text}; turn boost off: echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
        )
    if highest and high < _SLOWED * highest:
        return _warn("frequency", f"the cores are throttled, {text}; see the limits: cpupower frequency-info")
    return _ok("frequency", text)


def load(signs: Signs) -> Check:
    """Check that at least half of the cores are free."""
    if signs.load is None or not signs.cores:
        return _ok("load", "not told")
    text = f"{signs.load:.2g} on {signs.cores} cores"
    if signs.load <= signs.cores / 2:
        return _ok("load", text)
    return _warn("load", f"{text}: other programs run; find and stop them: ps -eo pcpu,pid,comm --sort=-pcpu | head")


def steal(signs: Signs) -> Check:
    """Check that the host does not give the processor to other guests."""
    if signs.steal is None:
        return _ok("steal", "not told")
    if signs.steal <= _MUCH_STEAL:
        return _ok("steal", f"{signs.steal:.1%}")
    return _warn(
        "steal",
        f"{signs.steal:.1%} of the CPU time went to other guests on the host; use a dedicated host, or measure at "
        "another time (column st of: vmstat 5 5)",
    )


def interrupted(signs: Signs) -> Check:
    """Check that most blocks ran without an involuntary switch."""
    text = f"{signs.interrupted_share:.0%} of the blocks"
    if signs.interrupted_share <= MOST_PREEMPTED:
        return _ok("interruptions", text)
    return _warn("interruptions", f"{text} were interrupted: wall time means little here; compare with --metric cpu")


def quota(signs: Signs) -> Check:
    """Check that the control group allows as many CPUs as there are threads."""
    allowed = signs.fingerprint.get("cgroup_cpus")
    if allowed is None or allowed >= signs.threads:
        return _ok("CPU quota", f"{allowed:g} CPUs" if allowed else "none")
    return _warn(
        "CPU quota",
        f"{allowed:g} CPUs for {signs.threads} thread(s): the kernel pauses the worker in every period; raise the "
        f"quota: docker update --cpus {signs.threads} CONTAINER",
    )


def cores(signs: Signs) -> Check:
    """Check that every thread has a core."""
    if signs.cores is None or signs.cores >= signs.threads:
        return _ok("cores", f"{signs.cores}" if signs.cores else "not told")
    return _warn(
        "cores", f"{signs.cores} for {signs.threads} threads: they wait for each other; use --threads {signs.cores}"
    )


def siblings(signs: Signs) -> Check:
    """Check that no other program runs on the second half of a core that is shared by two logical ones."""
    shared = signs.fingerprint.get("threads_per_core")
    if not shared or not signs.cores or shared == 1:
        return _ok("siblings", "cores are not shared" if shared else "not told")
    physical = max(signs.cores // shared, 1)
    text = f"{shared} logical cores share a physical one"
    if signs.load is None or signs.load + signs.threads <= physical:
        return _ok("siblings", text)
    return _warn(
        "siblings",
        f"{text}, and too many programs run for one core each: echo off | sudo tee /sys/devices/system/cpu/smt/control",
    )


def heat(signs: Signs) -> Check:
    """Check that the device did not warm up much."""
    found = signs.temperatures_c
    if not found:
        return _ok("temperature", "not told")
    if max(found) - found[0] <= TEMPERATURE_RISE_C:
        return _ok("temperature", f"{found[0]:.0f} to {max(found):.0f} C")
    return _warn(
        "temperature",
        f"it rose from {found[0]:.0f} to {max(found):.0f} C: the processor may slow down; cool it, or give it pauses "
        "with --duty 30ms",
    )


def battery(signs: Signs) -> Check:
    """Check that the device does not save power."""
    if not signs.fingerprint.get("on_battery"):
        return _ok("power", "not told" if signs.fingerprint.get("on_battery") is None else "mains")
    return _warn("power", "on battery: the processor saves power; plug it in (see: upower -d)")


def machine(signs: Signs) -> Check:
    """Check that no hypervisor lies between the worker and the processor."""
    if signs.fingerprint.get("virtual") != "vm":
        return _ok("machine", signs.fingerprint.get("virtual") or "not told")
    return _warn(
        "machine",
        "virtual: the load of its neighbours cannot be seen here; for margins below a few percent use a real machine, "
        "or one with dedicated cores (see: systemd-detect-virt)",
    )


CHECKS = (governor, frequency, load, steal, interrupted, quota, cores, siblings, heat, battery, machine)


def all_checks(signs: Signs) -> tuple[Check, ...]:
    """Return every check, warnings first."""
    found = [check(signs) for check in CHECKS]
    return tuple(sorted(found, key=lambda check: check.level == "ok"))


def _ok(name: str, text: str) -> Check:
    return Check(name=name, level="ok", text=text)


def _warn(name: str, text: str) -> Check:
    return Check(name=name, level="warn", text=text)
