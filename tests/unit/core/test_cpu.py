"""Instruction-set flags as the system states them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.cpu import cpu_flags

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n",
            {"fpu", "avx2", "avx_vnni"},
        ),
        ("processor : 0\nFeatures : fp asimd asimddp\n", {"fp", "asimd", "asimddp"}),
        ("processor : 0\nvendor_id : unknown\n", set()),
    ],
)
def test_the_first_core_speaks_for_all(tmp_path: Path, text: str, flags: set[str]) -> None:
    """On x86 and on ARM; nothing is assumed where nothing is stated."""
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_flags(tmp_path / "cpuinfo") == flags


def test_a_system_without_the_file_states_nothing(tmp_path: Path) -> None:
    """Anything but Linux."""
    assert cpu_flags(tmp_path / "absent") == frozenset()
