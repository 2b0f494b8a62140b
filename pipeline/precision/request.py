"""From a recipe's words to a quantization: calibration images, how many of them, and the request to an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.quantization.engines.engine import QuantizeRequest
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.core.errors import InputError
from pipeline.core.feeds import sample_count, take_samples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.calibration import Range
    from pipeline.compress.quantization.names import Scheme
    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Context
    from pipeline.precision.config import QuantizationConfig

#: Numbers of images that `auto` tries: each is twice the one before.
FEWEST, MOST = 32, 1024
#: The ranges have converged when they move by less than this from one number to the next, at the quantile below.
MOVED, QUANTILE = 0.02, 0.95


@dataclass(frozen=True)
class CalibrationImages:
    """Calibration samples as the network takes them; `moved` is how far ranges moved at each number."""

    feeds: Feeds
    moved: Mapping[int, float]


def request_of(config: QuantizationConfig, scheme: Scheme) -> QuantizeRequest:
    """Return the request to an engine, with the scheme that `auto` stands for on the target."""
    return QuantizeRequest(
        scheme=scheme,
        per_channel=config.per_channel,
        symmetric=config.symmetric,
        calibration=config.calibration,
        percentile=config.percentile,
        keep=config.keep,
    )


def calibration_images(config: QuantizationConfig, context: Context, model: ModelProto) -> CalibrationImages:
    """Return training images, drawn with the run's seed; validation and test images are never looked at.

    More images begin with the same ones. Raises InputError when the training split has too few.
    """
    pool = training_images(context, None if config.images == "auto" else config.images)
    if config.images != "auto":
        return CalibrationImages(pool, {})
    moved: dict[int, float] = {}
    total = sample_count(pool)
    count = min(FEWEST, total)
    before = _ranges(model, take_samples(pool, slice(count)), config)
    while count < min(MOST, total):
        count = min(2 * count, total)
        now = _ranges(model, take_samples(pool, slice(count)), config)
        moved[count] = _distance(before, now)
        if moved[count] < MOVED:
            break
        before = now
    return CalibrationImages(take_samples(pool, slice(count)), moved)


def training_images(context: Context, count: int | None, *, after: int = 0) -> Feeds:
    """Return training samples, as the network takes them, in an order drawn with the run's seed, from `after` on.

    Without a number at most 1024 of them. Raises InputError when the training split has fewer than `after + count`.
    """
    task = context.task()
    available = task.count("train")
    if after + (count or 1) > available:
        wanted = "auto" if count is None else after + count
        raise InputError(f"images is {wanted}, the training split has {available}: ask for at most that many")
    chosen = training_order(context)[after : after + (MOST if count is None else count)]
    return task.feeds("train", chosen)


def training_order(context: Context) -> NDArray[np.int64]:
    """Return the places of all training images in the order, drawn with the run's seed, in which they are taken."""
    return np.random.default_rng(context.seed).permutation(context.task().count("train"))


def _ranges(model: ModelProto, samples: Feeds, config: QuantizationConfig) -> dict[str, Range]:
    return activation_ranges(
        model, samples, calibration=config.calibration, percentile=config.percentile, keep=config.keep
    )


def _distance(before: Mapping[str, Range], now: Mapping[str, Range]) -> float:
    """Return by how much the ranges moved relative to their width, at the stated quantile over tensors."""
    widths = {name: max(high - low, 1e-12) for name, (low, high) in now.items()}
    moves = [
        max(abs(a - b) for a, b in zip(before[name], now[name], strict=True)) / widths[name]
        for name in now.keys() & before.keys()
    ]
    return float(np.quantile(moves, QUANTILE))
