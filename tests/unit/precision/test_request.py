"""Calibration images: which, how many, and what is said of networks and images that cannot be quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.core.artifact import Artifact
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError, StageError
from pipeline.core.feeds import sample_count
from pipeline.core.stage import Context, Target
from pipeline.data.arrays import image_classifier
from pipeline.precision import request as quantizing
from pipeline.precision.config import QuantizationConfig
from pipeline.precision.request import calibration_images, request_of, training_images
from tests.defaults import quantize_static
from tests.feeds import fed
from tests.unit.compress.quantization.graphs import floats, model_of, run

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto


class Untouchable:
    """Images of a split that must not be looked at."""

    def __len__(self) -> int:
        """Say how many there are, which is no secret."""
        return 4096

    @property
    def images(self) -> NDArray[np.uint8]:
        """Fail."""
        message = "these images must not be looked at"
        raise AssertionError(message)


def context(folder: Path, images: NDArray[np.uint8], seed: int = 0) -> Context:
    """Return a context whose validation and test images cannot be read."""
    train = Split(images, np.zeros(len(images), np.int64))
    hidden: Any = Untouchable()
    data = Dataset("drawn", ("a",), Normalisation((0.5,), (0.25,)), train, hidden, hidden)
    original = Artifact(form="torch", folder=folder, digest="", inputs=(), outputs=())
    return Context(folder=folder, seed=seed, target=Target(), original=original, task=lambda: image_classifier(data))


def drawn(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return images of noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)


def network(gain: float = 1.0, opset: int = 20) -> ModelProto:
    """Return a convolution, a ReLU and a linear layer."""
    nodes = [
        helper.make_node("Conv", ["input", "conv.weight", "conv.bias"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("Flatten", ["relu"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    constants = {
        "conv.weight": floats(3, 1, 3, 3) * np.float32(gain),
        "conv.bias": floats(3),
        "fc.weight": floats(2, 48),
        "fc.bias": floats(2),
    }
    model = model_of(nodes, {"input": (1, 1, 4, 4)}, ["logits"], constants, opset)
    return onnx.shape_inference.infer_shapes(model)


def config(**settings: Any) -> QuantizationConfig:  # noqa: ANN401 - any setting of a recipe
    """Return the configuration."""
    return QuantizationConfig.model_validate({"calibration": "min-max", **settings})


def ids(samples: NDArray[np.float32], images: NDArray[np.uint8]) -> list[int]:
    """Return which training images the samples are."""
    pixels = np.rint((samples * 0.25 + 0.5) * 255).astype(np.uint8)
    return [next(i for i, image in enumerate(images) if np.array_equal(image, each)) for each in pixels]


def test_auto_stops_when_ranges_stay(tmp_path: Path) -> None:
    """Soon for images that are alike, with all numbers that were tried told."""
    images = np.tile(drawn(2), (256, 1, 1, 1))
    found = calibration_images(config(images="auto"), context(tmp_path, images), network())
    assert sample_count(found.feeds) == 64
    assert list(found.moved) == [64]
    assert found.moved[64] < 0.02


def test_auto_goes_on_while_ranges_move(tmp_path: Path) -> None:
    """Here to the end, for every image is brighter than all before, in the order in which they are drawn."""
    order = np.random.default_rng(0).permutation(200)
    images = np.zeros((200, 1, 4, 4), np.uint8)
    images[order] = (np.arange(200)[:, None, None, None] + drawn(200) % 8).astype(np.uint8)
    found = calibration_images(config(images="auto"), context(tmp_path, images), network())
    assert sample_count(found.feeds) == 200
    assert list(found.moved) == [64, 128, 200]
    assert min(found.moved.values()) > 0.02


def test_auto_takes_all_of_few_images_and_no_more_than_a_thousand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than the first number are not an error."""
    few = calibration_images(config(images="auto"), context(tmp_path, drawn(5)), network())
    assert (sample_count(few.feeds), few.moved) == (5, {})
    monkeypatch.setattr(quantizing, "_distance", lambda *_: 1.0)
    many = calibration_images(config(images="auto"), context(tmp_path, drawn(1500)), network())
    assert sample_count(many.feeds) == 1024
    assert list(many.moved) == [64, 128, 256, 512, 1024]


@pytest.mark.parametrize("calibration", ["min-max", "percentile", "entropy", "mse"])
def test_every_calibration_converges(tmp_path: Path, calibration: str) -> None:
    """And what it takes is what a number in the recipe would take."""
    settings = {"calibration": calibration}
    images = drawn(300)
    found = calibration_images(config(images="auto", **settings), context(tmp_path, images), network())
    count = sample_count(found.feeds)
    assert 64 <= count <= 300
    stated = calibration_images(config(images=count, **settings), context(tmp_path, images), network())
    np.testing.assert_array_equal(stated.feeds["input"], found.feeds["input"])
    again = calibration_images(config(images="auto", **settings), context(tmp_path, images), network())
    assert again.moved == found.moved


def test_images_are_drawn_by_the_seed_and_more_begin_with_the_same(tmp_path: Path) -> None:
    """Each once; those behind them can be had too."""
    images = drawn(50)

    def taken(count: int | None, seed: int = 0, **more: int) -> NDArray[np.float32]:
        return training_images(context(tmp_path, images, seed=seed), count, **more)["input"]

    first, more = taken(10), taken(50)
    np.testing.assert_array_equal(more[:10], first)
    assert sorted(ids(more, images)) == list(range(50))
    assert ids(first, images) != list(range(10))
    np.testing.assert_array_equal(taken(5, after=10), more[10:15])
    assert ids(taken(10, seed=1), images) != ids(first, images)
    np.testing.assert_array_equal(taken(None), more)


@pytest.mark.parametrize(("count", "after"), [(51, 0), (1, 50), (None, 50), (10, 41)])
def test_too_few_images_are_an_input_error(tmp_path: Path, count: int | None, after: int) -> None:
    """With both numbers."""
    with pytest.raises(InputError, match=r"images is (51|auto), the training split has 50: ask for at most"):
        training_images(context(tmp_path, drawn(50)), count, after=after)


def test_no_images_at_all_are_an_input_error(tmp_path: Path) -> None:
    """Also for `auto`."""
    with pytest.raises(InputError, match="the training split has 0"):
        calibration_images(config(images="auto"), context(tmp_path, drawn(0)), network())
    with pytest.raises(InputError, match="no calibration images"):
        activation_ranges(network(), fed(floats(0, 1, 4, 4)), calibration="min-max", percentile=100)


def test_a_request_has_all_that_the_recipe_says() -> None:
    """The scheme is the one that `auto` stands for."""
    settings = {"per_channel": False, "symmetric": True, "calibration": "mse", "percentile": 99.0, "keep": ("fc",)}
    request = request_of(config(**settings), "s8s8")
    assert vars(request) == {**settings, "scheme": "s8s8"}


@pytest.mark.parametrize("calibration", ["min-max", "percentile", "entropy", "mse"])
def test_images_that_are_no_numbers_or_do_not_fit_are_input_errors(calibration: Any) -> None:  # noqa: ANN401
    """Before anything is quantized."""
    samples = floats(6, 1, 4, 4)
    samples[3, 0, 1, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        quantize_static(network(), samples, scheme="u8s8", calibration=calibration)
    for shape in ((6, 3, 4, 4), (6, 1, 4, 5), (6, 16)):
        with pytest.raises(InputError, match=r"accepts input of shape \[1, 4, 4\], the calibration images have"):
            quantize_static(network(), floats(*shape), scheme="u8s8", calibration=calibration)


@pytest.mark.parametrize("calibration", ["min-max", "percentile", "entropy", "mse"])
def test_activations_that_are_no_numbers_fail_and_are_named(calibration: Any) -> None:  # noqa: ANN401
    """For one image among many: a root of negative numbers, or an overflow."""
    model = network()
    model.graph.node[1].op_type = "Sqrt"
    samples = np.concatenate([np.zeros((5, 1, 4, 4), np.float32), -floats(1, 1, 4, 4) * 9])
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "conv.bias"))
    with pytest.raises(StageError, match="not finite, first in relu"):
        quantize_static(model, samples, scheme="u8s8", calibration=calibration)
    with pytest.raises(StageError, match="not finite, first in conv"):
        quantize_static(network(1e38), floats(3, 1, 4, 4), scheme="u8s8", calibration=calibration)


def test_operators_that_are_too_old_are_an_input_error() -> None:
    """QuantizeLinear has a scale for each channel since opset 13."""
    with pytest.raises(InputError, match="opset 12, quantization needs 13"):
        quantize_static(network(opset=12), floats(3, 1, 4, 4), scheme="u8s8")


@pytest.mark.parametrize("scheme", ["u8s8", "u8s8-reduced", "s8s8", "u8u8"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("calibration", ["min-max", "percentile", "entropy", "mse"])
def test_dead_layers_and_channels_give_right_files(scheme: Any, symmetric: bool, calibration: Any) -> None:  # noqa: ANN401, FBT001
    """Weights that are all zero, outputs that never change, and images of one colour."""
    whole = network()
    dead = {"conv.weight": np.zeros((3, 1, 3, 3), np.float32), "conv.bias": np.zeros(3, np.float32)}
    channel = {"conv.weight": floats(3, 1, 3, 3) * np.float32([0, 1, 1])[:, None, None, None]}
    constant = {"conv.bias": np.float32([-100, 2, -100]), "conv.weight": np.zeros((3, 1, 3, 3), np.float32)}
    for changes in (dead, channel, constant):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        for tensor in model.graph.initializer:
            if tensor.name in changes:
                tensor.CopyFrom(numpy_helper.from_array(changes[tensor.name], tensor.name))
        for samples in (floats(8, 1, 4, 4), np.full((8, 1, 4, 4), 0.5, np.float32)):
            options = {"scheme": scheme, "symmetric": symmetric, "calibration": calibration}
            quantized = quantize_static(model, samples, **options).model
            onnx.checker.check_model(quantized, full_check=True)
            expected, found = run(model, samples[:1])[0], run(quantized, samples[:1])[0]
            assert np.abs(found - expected).max() < 0.06 * np.abs(expected).max() + 0.02
