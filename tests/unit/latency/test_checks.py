"""What disturbs a device, from prepared readings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.latency.checks import CHECKS, Signs, all_checks

if TYPE_CHECKING:
    from pipeline.results.doctor import Check

#: A quiet machine of four cores.
QUIET = {
    "governor": "performance",
    "max_frequency_mhz": 3000.0,
    "affinity": [0, 1, 2, 3],
    "logical_cores": 4,
    "cgroup_cpus": None,
    "virtual": "bare",
    "threads_per_core": 2,
    "on_battery": False,
}
CALM = {"load": 0.5, "steal": 0.0, "frequencies_mhz": (2990.0, 3000.0), "temperatures_c": (50.0, 52.0)}


def checked(name: str, fingerprint: dict[str, object] | None = None, **signs: object) -> Check:
    """Return one check of a quiet machine, but for what is given."""
    threads = signs.pop("threads", 1)
    found = Signs({**QUIET, **(fingerprint or {})}, threads, **{**CALM, **signs})  # type: ignore[arg-type]
    return next(each for each in all_checks(found) if each.name == name)


def test_a_quiet_machine_has_no_warnings() -> None:
    """Every check says what it found."""
    found = all_checks(Signs(QUIET, 1, **CALM))  # type: ignore[arg-type]
    assert len(found) == len(CHECKS) >= 11
    assert {each.level for each in found} == {"ok"}
    assert all(each.text for each in found)


def test_what_is_not_told_is_no_reason_to_warn() -> None:
    """A board without sensors and without cpufreq."""
    assert {each.level for each in all_checks(Signs({}, 1))} == {"ok"}


@pytest.mark.parametrize(
    ("name", "fingerprint", "signs", "told"),
    [
        ("governor", {"governor": "schedutil"}, {}, "cpupower frequency-set -g performance"),
        ("frequency", {}, {"frequencies_mhz": (2800.0, 3000.0)}, "changed, 2800 to 3000 MHz of 3000"),
        ("frequency", {}, {"frequencies_mhz": (1500.0, 1510.0)}, "throttled"),
        ("load", {}, {"load": 2.1}, "2.1 on 4 cores"),
        ("steal", {}, {"steal": 0.03}, "3.0%"),
        ("interruptions", {}, {"interrupted_share": 0.7}, "--metric cpu"),
        ("CPU quota", {"cgroup_cpus": 1.5}, {"threads": 2}, "docker update --cpus 2"),
        ("cores", {"affinity": [0]}, {"threads": 2}, "--threads 1"),
        ("siblings", {}, {"load": 1.9}, "smt/control"),
        ("temperature", {}, {"temperatures_c": (50.0, 61.0)}, "50 to 61 C"),
        ("power", {"on_battery": True}, {}, "plug it in"),
        ("machine", {"virtual": "vm"}, {}, "real machine"),
    ],
)
def test_what_disturbs_is_said_with_what_to_do(
    name: str, fingerprint: dict[str, object], signs: dict[str, object], told: str
) -> None:
    """Beyond each limit there is a warning, and it stands first."""
    assert checked(name).level == "ok"
    found = checked(name, fingerprint, **signs)
    assert found.level == "warn"
    assert told in found.text


@pytest.mark.parametrize(
    ("name", "fingerprint", "signs"),
    [
        ("load", {}, {"load": 2.0}),
        ("CPU quota", {"cgroup_cpus": 2.0}, {"threads": 2}),
        ("cores", {"affinity": None, "logical_cores": 2}, {"threads": 2}),
        ("siblings", {"threads_per_core": 1}, {"load": 4.0}),
        ("governor", {"governor": None}, {}),
        ("frequency", {"max_frequency_mhz": None}, {"frequencies_mhz": (1500.0,)}),
    ],
)
def test_at_the_limit_all_is_well(name: str, fingerprint: dict[str, object], signs: dict[str, object]) -> None:
    """Limits are what is still allowed."""
    assert checked(name, fingerprint, **signs).level == "ok"


def test_warnings_stand_first() -> None:
    """Whatever their place in the list of checks."""
    found = all_checks(Signs({**QUIET, "virtual": "vm"}, 1, **CALM))  # type: ignore[arg-type]
    assert found[0].name == "machine"
