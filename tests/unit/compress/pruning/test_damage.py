"""The loss of states of a network: whose statistics batch norms take, and that a lone last sample does no harm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.compress.pruning.damage import DamageMeter
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.samples import Samples
from pipeline.compress.training.batchnorm import batch_statistics
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.data.arrays import image_classifier

COUNT, SIDE = 48, 6


def network() -> nn.Sequential:
    """Return a small network with batch norm whose kept statistics are far from those of any images."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).eval()
    made[1].running_mean.fill_(5.0)
    return made


def samples(images: int, batch: int) -> Samples:
    """Return samples of random images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 1, SIDE, SIDE), dtype=np.uint8)
    split = Split(pixels, rng.integers(0, 3, COUNT))
    task = image_classifier(Dataset("noise", ("a", "b", "c"), Normalisation((0.5,), (0.2,)), split, split, split))
    return Samples(lambda: task, images, batch, 0)


def meter(images: int, batch: int) -> tuple[DamageMeter, nn.Sequential]:
    """Return what measures the network's loss, and the network."""
    model = network()
    captured = capture_graph(model, (torch.randn(2, 1, SIDE, SIDE),))
    return DamageMeter(captured, trace_channels(captured), samples(images, batch)), model


def test_each_batch_has_its_own_statistics() -> None:
    """The loss is that of the network whose batch norm sees the batch alone."""
    measure, model = meter(32, 16)
    model[1].train()
    with torch.no_grad():
        expected = [float(cross_entropy(model(images), labels)) for (images,), labels in samples(32, 16).training()]
    assert measure.loss({}) == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_a_last_batch_of_one_is_left_out() -> None:
    """One sample of 33 has no variance: the others count."""
    assert meter(33, 32)[0].loss({}) == pytest.approx(meter(32, 32)[0].loss({}), rel=0.2)


def test_small_batches_share_their_statistics() -> None:
    """In batches of four the statistics of all images are taken first, so that the batch decides little."""
    few, many = meter(COUNT, 4)[0].loss({}), meter(COUNT, COUNT)[0].loss({})
    assert few == pytest.approx(many, rel=0.02)


def test_statistics_of_a_batch_leave_those_that_are_kept() -> None:
    """Modes, momenta and kept statistics are those of before."""
    model = network()
    with batch_statistics(model), torch.no_grad():
        changed = model(torch.randn(16, 1, SIDE, SIDE))
    assert not torch.allclose(changed, model(torch.randn(16, 1, SIDE, SIDE)))
    assert model[1].running_mean.eq(5.0).all()
    assert (model[1].training, model[1].momentum) == (False, 0.1)
