"""The same images here and there: what counts as equal, and what is told of the first that differs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from pipeline.core.errors import DeviceError, InputError, OutputsError, StageError
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.machine import machine_fingerprint
from pipeline.precision import avx2, same_bits
from pipeline.precision.avx2 import Avx2Device
from pipeline.precision.same_bits import Output, compared, exact_sums, on_device
from pipeline.precision.targets import target_facts
from tests.feeds import fed
from tests.unit.compress.quantization.products import CASES, Case, images_of, integers, model_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def output(*values: float, shape: tuple[int, ...] | None = None) -> Output:
    """Return an output of these numbers."""
    array = np.array(values, np.float32)
    return Output(hashlib.sha256(array.tobytes()).hexdigest(), shape or array.shape, array)


def test_bits_and_classes_are_counted_apart() -> None:
    """An image counts when all its outputs agree; the first that differs is told with its output."""
    here = [[output(1, 2), output(8)], [output(1, 2), output(5)], [output(4, 2), output(5)]]
    there = [[output(1, 2), output(8)], [output(1, 2), output(6)], [output(1, 2), output(5)]]
    found = compared("here", "there", here, there)
    assert (found.images, found.same_bits, found.same_argmax) == (3, 1, 2)
    assert found.first is not None
    assert (found.first.image, found.first.output, found.first.relative) == (1, 1, 1 / 8)
    assert found.largest == 3 / 4
    assert (found.here, found.there, found.conclusive) == ("here", "there", True)


def test_equal_sides_have_no_first_difference() -> None:
    """Of an output that is no vector there is no class."""
    side = [[output(1, 2, 3, 4, shape=(2, 2))]] * 2
    found = compared("here", "there", side, side)
    assert (found.same_bits, found.same_argmax, found.first, found.largest) == (2, None, None, 0.0)


def test_bits_are_compared_and_not_values() -> None:
    """Zero and minus zero are equal and not the same; beyond what is told the digest decides."""
    found = compared("here", "there", [[output(0.0, 1.0)]], [[output(-0.0, 1.0)]])
    assert (found.same_bits, found.same_argmax, found.largest) == (0, 1, 0.0)


def test_outputs_of_another_shape_are_refused() -> None:
    """They cannot be compared."""
    with pytest.raises(OutputsError, match=r"there: outputs have shapes \[\(3,\)\], expected \[\(2,\)\] as here"):
        compared("here", "there", [[output(1, 2)]], [[output(1, 2, 3)]])


def written(folder: Path, case: Case, images: int = 3) -> tuple[Path, NDArray[np.float32]]:
    """Write the file of a case, and return it with images."""
    path = folder / "model.onnx"
    path.write_bytes(model_of(case).SerializeToString())
    return path, images_of(case, integers(case, images))


def test_a_device_agrees_with_itself(tmp_path: Path) -> None:
    """Two workers on this machine give the same bits for each image, in files of any batch size."""
    case = CASES["direct"]
    path, images = written(tmp_path, case)
    found = on_device(path, fed(images, "x"), LocalDevice())
    assert (found.here, found.there) == ("local", "local")
    assert (found.images, found.same_bits, found.same_argmax, found.first) == (3, 3, None, None)
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    del model.graph.value_info[:]
    path.write_bytes(model.SerializeToString())
    assert on_device(path, fed(images, "x"), LocalDevice()).same_bits == 3


def test_the_given_images_are_what_is_run(tmp_path: Path) -> None:
    """Image by image a worker gives what onnxruntime gives here, and something else for other images."""
    path, images = written(tmp_path, CASES["im2col"])
    here = same_bits._run_here(path, fed(images, "x"), "0")
    for shown, agreeing in ((images, [True, True, True]), (images[[0, 2, 2]], [True, False, True])):
        np.save(tmp_path / "images.npy", shown)
        there = same_bits._run_there(LocalDevice(), path, {"x": tmp_path / "images.npy"}, 3, "onnxruntime", None)
        found = [one[0].sha256 == other[0].sha256 for one, other in zip(here, there, strict=True)]
        assert found == agreeing


def test_the_option_on_this_processor(tmp_path: Path) -> None:
    """Where sums are exact anyway, both sides agree, and it is said that this shows nothing."""
    path, images = written(tmp_path, CASES["direct"])
    found = exact_sums(path, fed(images, "x"))
    assert (found.here, found.there) == ("as by default", "session.x64quantprecision=1")
    saturates = target_facts(machine_fingerprint(), "onnxruntime").saturates
    assert found.conclusive == saturates
    assert saturates or (found.same_bits == 3 and "says nothing about processors without VNNI" in found.note)


def test_no_images_or_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Both are the user's to mend."""
    path, images = written(tmp_path, CASES["direct"])
    with pytest.raises(InputError, match="found no image"):
        on_device(path, fed(images[:0], "x"), LocalDevice())
    with pytest.raises(InputError, match="found no image"):
        exact_sums(path, fed(images[:0], "x"))
    with pytest.raises(InputError, match="no such file"):
        exact_sums(tmp_path / "none.onnx", fed(images, "x"))
    with pytest.raises(StageError, match="infer"):
        on_device(path, fed(images[:, :, :4], "x"), LocalDevice())


def test_the_emulated_x86_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An x86-64 machine and the emulator."""
    monkeypatch.setattr(avx2.shutil, "which", lambda _: None)
    monkeypatch.setattr(avx2.platform, "machine", lambda: "x86_64")
    with pytest.raises(DeviceError, match="qemu-x86_64 was not found: install qemu-user"):
        Avx2Device().start()
    monkeypatch.setattr(avx2.platform, "machine", lambda: "aarch64")
    with pytest.raises(DeviceError, match="found aarch64; x86-64 emulated as Haswell needs an x86-64 machine"):
        Avx2Device().start()
