"""Real kernels on emulated processors: the model of saturation to the last bit, and files on ARM."""

from __future__ import annotations

import base64
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.compress.quantization.saturation import count_saturation
from pipeline.measure.connection import Connection, connect
from pipeline.precision.exactness import expected
from pipeline.precision.same_bits import on_device
from pipeline.precision.targets import target_facts
from tests.defaults import quantize_static
from tests.feeds import fed
from tests.unit.compress.quantization.precisions import test_precisions as others
from tests.unit.compress.quantization.products import (
    CASES,
    W_SCALE,
    X_SCALE,
    Case,
    images_of,
    integers,
    model_of,
    quantized,
    sums_of,
    weights,
)
from tests.unit.compress.quantization.test_saturation import network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.measure.devices.qemu import QemuDevice
    from pipeline.precision.avx2 import Avx2Device

pytestmark = pytest.mark.slow


def run(
    worker: Connection, folder: Path, case: Case, values: NDArray[np.int64], weight: NDArray[np.int8]
) -> NDArray[np.int64]:
    """Return the outputs of a layer on a worker as integers [positions, width]."""
    path, images = folder / "model.onnx", folder / "images.npy"
    path.write_bytes(model_of(case, weight).SerializeToString())
    np.save(images, images_of(case, values))
    terms = {"runtime": "onnxruntime", "threads": 1, "batch": len(values), "shapes": {}}
    worker.request("create", subject=0, file={"path": str(path), "sha256": {}, **terms}, seed=0)
    told = worker.request("infer", subject=0, stored={"x": str(images)}, start=0)
    numbers = [np.frombuffer(base64.b64decode(each[0]["values"]), "<f4").reshape(each[0]["shape"]) for each in told]
    outputs = np.stack(numbers).astype(np.float64)
    if not case.spatial:
        return np.rint(outputs / (float(X_SCALE) * float(W_SCALE))).astype(np.int64)
    whole = np.rint(outputs / float(case.y_scale)).astype(np.int64) + (0 if case.signed else 128)
    return np.moveaxis(whole, 1, -1).reshape(-1, case.width)


def test_saturation_is_modelled_to_the_last_bit(avx2: Avx2Device, tmp_path: Path) -> None:
    """On every path of the kernels the outputs without VNNI are those of the clipped sums."""
    worker, _ = connect(avx2)
    with worker:
        for name, case in CASES.items():
            values = integers(case)
            sums = sums_of(case, values, weights(case))
            exact, clipped = (quantized(case, each) if case.spatial else each for each in (sums.exact, sums.clipped))
            found = run(worker, tmp_path, case, values, weights(case))
            np.testing.assert_array_equal(found, clipped, err_msg=name)
            assert (found != exact).any() == (not name.startswith("depthwise")), name


def test_sums_on_arm_are_exact(arm64: Callable[[str], QemuDevice], tmp_path: Path) -> None:
    """For weights of -127 to 127, with and without dot products; two of -128 break the processor without."""
    for cpu in ("cortex-a72", "cortex-a76"):
        worker, _ = connect(arm64(cpu))
        with worker:
            for name in ("im2col", "deep", "signed", "depthwise of 16", "odd rows"):
                case = CASES[name]
                values = integers(case)
                sums = sums_of(case, values, weights(case)).exact
                expect = quantized(case, sums) if case.spatial else sums
                np.testing.assert_array_equal(run(worker, tmp_path, case, values, weights(case)), expect, err_msg=name)
            names = ("rows", "depthwise of 16", "direct")
            broken = [name for name in names if smallest_breaks(worker, tmp_path, CASES[name])]
            assert broken == (list(names) if cpu == "cortex-a72" else ["depthwise of 16"])
            assert not any(smallest_breaks(worker, tmp_path, CASES[name], others=-127) for name in names)


def smallest_breaks(worker: Connection, folder: Path, case: Case, *, others: int = -128) -> bool:
    """Say whether a weight of -128 beside `others` and activations of 0, which kernels see as -128, give wrong sums."""
    weight = np.full(weights(case).shape, others, np.int8)
    (weight if case.spatial else weight.T).reshape(case.width, -1)[:, 0] = -128
    values = np.zeros_like(integers(case))
    case = dataclasses.replace(case, zero_point=128)
    sums = sums_of(case, values, weight).exact
    expect = quantized(case, sums) if case.spatial else sums
    return bool((run(worker, folder, case, values, weight) != expect).any())


def test_a_network_without_vnni_and_on_arm(
    avx2: Avx2Device, arm64: Callable[[str], QemuDevice], tmp_path: Path
) -> None:
    """What the counts and the table say is what happens: full range differs on AVX2 alone, 7 bits nowhere."""
    model, images = network()
    device = arm64("cortex-a72")
    for scheme, differs in (("u8s8", True), ("u8s8-reduced", False)):
        file = quantize_static(model, images, scheme=scheme).model
        path = tmp_path / f"{scheme}.onnx"
        path.write_bytes(file.SerializeToString())
        there = on_device(path, fed(images, "x"), avx2, reference=device)
        assert (there.here, there.there) == ("qemu://cortex-a72", "x86-64 emulated as Haswell")
        assert (there.same_bits < there.images) == differs
        assert there.same_argmax is not None
        assert bool(count_saturation(file, fed(images, "x")).saturated) == differs
        assert (there.first is not None) == differs
    here = target_facts({"architecture": "x86_64", "isa": ["avx", "avx2", "avx512_vnni"]}, "onnxruntime")
    arm = target_facts({"architecture": "aarch64", "isa": ["asimd"]}, "onnxruntime")
    assert expected(file, here, arm).expectation == "rounding"


@pytest.mark.parametrize("name", ["dynamic", "4 bits", "8 bits", "half weights", "half graph"])
def test_other_precisions_run_on_arm(arm64: Callable[[str], QemuDevice], tmp_path: Path, name: str) -> None:
    """With the same classes and nearly the same numbers; a graph in float16 is computed in it there."""
    change, _, _ = others.WAYS[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(change(others.network()).SerializeToString())
    found = on_device(path, fed(others.SAMPLES), arm64("cortex-a76"))
    assert found.same_argmax == found.images == len(others.SAMPLES)
    assert found.largest < 1e-2
    # Here it is cast to float32 or rounded at other places, there each operator rounds to 11 bits.
    assert (found.largest > 1e-4) == (name == "half graph")
