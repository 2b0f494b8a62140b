"""Networks whose outputs cannot be compared are told why, with the line; all others pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from pipeline.compress.soundness import check_classifier, mixing
from pipeline.core.errors import InputError
from pipeline.zoo import build

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (1, 3, 8, 8)
CLASSES = ("a", "b", "c")
DEFINITION = """import sys
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.fc, self.calls = nn.Linear(4, 3), 0

    def forward(self, x):
        {before}
        y = self.fc(self.body(x).mean((2, 3)))
        return {result}


def build():
    return Network()
"""
#: What stands before the layers and what is returned -> what is said; line 15 is the first, 17 the last.
REFUSED = {
    "functional dropout": (
        "x = F.dropout(x)",
        "y",
        r"bernoulli_ at .*model\.py:15 `x = F.dropout\(x\)`.*training=self",
    ),
    "layers that stay in training": ("self.body.train()", "y", r"at .*model\.py:16 `y = self.fc"),
    "noise": ("x = x + torch.randn_like(x)", "y", r"draws random numbers \(randn_like at .*model\.py:15"),
    "numpy": (
        "x = x * np.random.rand()",
        "y",
        "torch drew no random numbers: its forward keeps a state, or uses random",
    ),
    "state": ("self.calls += 1", "y * self.calls", "torch drew no random numbers: its forward keeps a state"),
    "error": (
        "raise ValueError('grey')",
        "y",
        r"does not take images of shape \(1, 3, 8, 8\): .*:15 .*ValueError: grey",
    ),
    "exit": ("sys.exit(0)", "y", r"model\.py:15 `sys.exit\(0\)`: ended the program \(exit code 0\)"),
    "size": ("x = x.reshape(1, 5, 8, 8)", "y", r"model\.py:15 .*RuntimeError: shape '\[1, 5, 8, 8\]' is invalid"),
    "channels": ("x = x[:, :1]", "y", r"model\.py:16 .*RuntimeError: Given groups=1"),
    "tuple": ("", "(y, y)", "the network gives tuple for a batch of 1, but the data has 3 classes"),
    "dictionary": ("", "{'logits': y}", "the network gives dict"),
    "complex": ("", "y.to(torch.complex64)", r"logits of another kind \(complex64, strided, device cpu\)"),
    "sparse": ("", "y.to_sparse()", r"logits of another kind \(float32, sparse_coo, device cpu\)"),
    "on no device": ("", "y.to('meta')", r"logits of another kind \(float32, strided, device meta\)"),
    "too few": ("", "y[:, :2]", r"the network gives \(1, 2\) for a batch of 1"),
}
ACCEPTED = {
    "plain": ("", "y"),
    "dropout that knows": ("x = F.dropout(x, 0.5, self.training)", "y"),
    "noise below rounding": ("", "y + 1e-9 * torch.rand(3)"),
    "a generator of its own": ("x = x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))", "y"),
    "writes into its input": ("x.sub_(0.5)", "y"),
}


def network(folder: Path, before: str, result: str) -> nn.Module:
    """Return the network of a definition with these expressions."""
    file = folder / "model.py"
    file.write_text(DEFINITION.format(before=before or "pass", result=result))
    return build(file, {})


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_told_why_outputs_cannot_be_compared(case: str, tmp_path: Path) -> None:
    """Random numbers, states and exceptions in forward are named with the line of the user's file."""
    before, result, expected = REFUSED[case]
    with pytest.raises(InputError, match=expected):
        check_classifier(network(tmp_path, before, result), SHAPE, CLASSES)


def test_grey_images_that_the_normalisation_repeats_are_named(tmp_path: Path) -> None:
    """Where the network takes one channel, and nothing else is wrong with it."""
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    expected = r"takes images of 1 channel and not of shape \(1, 3, 8, 8\): mean and std have 3 values, so grey images"
    with pytest.raises(InputError, match=expected):
        check_classifier(grey, SHAPE, CLASSES, repeated=True)
    for model, repeated in ((grey, False), (network(tmp_path, *REFUSED["error"][:2]), True)):
        with pytest.raises(InputError, match="the network does not take images of shape"):
            check_classifier(model, SHAPE, CLASSES, repeated=repeated)


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_gives_the_same_twice_passes(case: str, tmp_path: Path) -> None:
    """Random numbers that change nothing are no fault; the network keeps its mode and its random state."""
    model = network(tmp_path, *ACCEPTED[case])
    state = torch.get_rng_state()
    check_classifier(model, SHAPE, CLASSES)
    assert not model.training
    if "rand" not in ACCEPTED[case][1]:
        assert torch.equal(state, torch.get_rng_state())


def test_batch_statistics_in_evaluation_are_named() -> None:
    """Batch norm without running statistics, and any other way to look at the images beside one."""
    batch = torch.randn(4, 3, 8, 8)
    tail = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    without = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), *tail).eval()
    assert "beside it in the batch: 1 (BatchNorm2d) has no running statistics" in mixing(without, batch)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *tail).eval()
    assert mixing(plain, batch) == ""

    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x.mean(0)).mean((2, 3))

    assert "its forward computes across them" in mixing(Centred(), batch)
