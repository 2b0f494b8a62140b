"""`inspect --bit-exact-arm`: what is said of agreements, and with which exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from torch import nn

from pipeline.core.errors import DeviceError, InputError
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.inspect.bits import compare_bits, text_of, worst_exit_code
from pipeline.inspect.file import InspectOptions
from pipeline.precision.same_bits import Agreement
from tests.feeds import image_input

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds

SAME = Agreement("local", "qemu://cortex-a72", 8, 8, 8, 0.0, None)
ROUNDED = Agreement("local", "qemu://cortex-a76", 8, 5, 8, 1e-7, None)
OTHER = Agreement("local", "qemu://cortex-a76", 8, 0, 7, 0.2, None)
AWAY = Agreement("local", "qemu://cortex-a72", 0, 0, None, 0.0, None, conclusive=False, note="no qemu-aarch64")
HERE = Agreement("as by default", "exact", 8, 8, 8, 0.0, None)


@pytest.mark.parametrize(
    ("agreements", "code"),
    [
        ([HERE, SAME, ROUNDED], 0),
        ([HERE, SAME, OTHER], 1),
        ([OTHER, SAME], 1),
        ([HERE, AWAY, AWAY], 3),
        ([HERE, AWAY, SAME], 0),
    ],
)
def test_exit_code_is_that_of_the_worst(agreements: list[Agreement], code: int) -> None:
    """Another class fails; a comparison that no processor took part in is no pass."""
    assert worst_exit_code(agreements) == code


def test_every_comparison_has_its_line() -> None:
    """Counts of images, and the reason where there was no comparison."""
    lines = text_of([ROUNDED, AWAY]).splitlines()
    assert "the same bits for 5 of 8 images, the same class for 8" in lines[0]
    assert lines[1].endswith("not compared: no qemu-aarch64")


def test_files_that_are_not_onnx_are_refused(tmp_path: Path) -> None:
    """The kernels that are known are onnxruntime's."""
    with pytest.raises(InputError, match="allowed: an ONNX file"):
        compare_bits(tmp_path / "model.xml", InspectOptions())


def test_processors_are_asked_with_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random inputs are drawn once; an emulator that is missing is told, not passed over."""
    seen: list[NDArray[np.float32]] = []

    def answer(_: Path, samples: Feeds, device: str) -> Agreement:
        seen.append(samples["input"])
        if device.endswith("a76"):
            raise DeviceError("no qemu-aarch64")
        return SAME

    monkeypatch.setattr("pipeline.inspect.bits.open_device", lambda url: url)
    monkeypatch.setattr("pipeline.inspect.bits.on_device", answer)
    export_onnx(nn.Conv2d(1, 2, 3).eval(), tmp_path, image_input((1, 1, 8, 8)))
    found = compare_bits(tmp_path / FILE_NAME, InspectOptions(count=3, seed=1))
    assert [each.images for each in found] == [3, 8, 0]
    assert np.array_equal(seen[0], seen[1])
    assert len(seen[0]) == 3
