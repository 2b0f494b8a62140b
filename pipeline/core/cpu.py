"""What the processor can do, as the operating system tells it."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
#: The line that lists the instruction sets: `flags` on x86, `Features` on ARM.
_FLAG_KEYS = ("flags", "Features")


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Return the instruction-set flags of the first core, such as avx2, avx512_vnni or asimddp.

    Empty where the system has no such file (anything but Linux): nothing is known then, and nothing is assumed.
    """
    if not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _FLAG_KEYS:
            return frozenset(value.split())
    return frozenset()
