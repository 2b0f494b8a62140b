"""Networks whose outputs cannot be compared are told why, with the line; all others pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from pipeline.compress.pruning.trial import Trial
from pipeline.compress.state.kept import kept_state
from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.network.definition import build_network
from pipeline.network.soundness import batch_mixing, check_classifier
from pipeline.network.stored import write_original

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
        "torch drew no random numbers, and nothing in the network has changed: its forward uses random",
    ),
    "counter": (
        "self.calls += 1",
        "y * self.calls",
        r"changes calls of the network at .*model\.py:15 `self.calls \+= 1`",
    ),
    "buffer": (
        "self.body[1].running_mean.sub_(1)",
        "y",
        r"keeps state in evaluation: .*changes buffer body.1.running_mean at .*model\.py:15 `self.body\[1\]",
    ),
    "buffer that is replaced": (
        "self.body[1].running_var = self.body[1].running_var * 2",
        "y",
        r"changes buffer body.1.running_var at .*model\.py:15",
    ),
    "list": ("self.body.kept = [*getattr(self.body, 'kept', []), 1]", "y * len(self.body.kept)", r"changes kept\[\d\]"),
    "error": (
        "raise ValueError('grey')",
        "y",
        r"does not accept images of shape \(1, 3, 8, 8\): .*:15 .*ValueError: grey",
    ),
    "exit": ("sys.exit(0)", "y", r"model\.py:15 `sys.exit\(0\)`: ended the program \(exit code 0\)"),
    "size": ("x = x.reshape(1, 5, 8, 8)", "y", r"model\.py:15 .*RuntimeError: shape '\[1, 5, 8, 8\]' is invalid"),
    "channels": ("x = x[:, :1]", "y", r"model\.py:16 .*RuntimeError: Given groups=1"),
    "tuple": ("", "(y, y)", "the network gives tuple for a batch of 1, but the data has 3 classes"),
    "dictionary": ("", "{'logits': y}", "the network gives dict"),
    "complex": ("", "y.to(torch.complex64)", r"logits of the kind complex64, strided, device cpu; expected"),
    "sparse": ("", "y.to_sparse()", r"logits of the kind float32, sparse_coo, device cpu; expected"),
    "on no device": ("", "y.to('meta')", r"logits of the kind float32, strided, device meta; expected"),
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
    return build_network(file, {})


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_told_why_outputs_cannot_be_compared(case: str, tmp_path: Path) -> None:
    """Random numbers, states and exceptions in forward are named with the line of the user's file."""
    before, result, expected = REFUSED[case]
    with pytest.raises(InputError, match=expected):
        check_classifier(network(tmp_path, before, result), SHAPE, CLASSES)


def test_grey_images_that_the_normalisation_repeats_are_named(tmp_path: Path) -> None:
    """Where the network takes one channel, and nothing else is wrong with it."""
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    expected = r"accepts images of 1 channel, not of shape \(1, 3, 8, 8\): mean and std have 3 values, so grey images"
    with pytest.raises(InputError, match=expected):
        check_classifier(grey, SHAPE, CLASSES, repeated=True)
    for model, repeated in ((grey, False), (network(tmp_path, *REFUSED["error"][:2]), True)):
        with pytest.raises(InputError, match="the network does not accept images of shape"):
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
    assert "the other images in the batch: 1 (BatchNorm2d) has no running statistics" in batch_mixing(without, (batch,))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *tail).eval()
    assert batch_mixing(plain, (batch,)) == ""

    class Centred(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - x.mean(0)).mean((2, 3))

    assert "its forward computes across images" in batch_mixing(Centred(), (batch,))


def test_a_norm_that_stays_in_training_is_named_with_its_line(tmp_path: Path) -> None:
    """Its outputs are the same each time, and the images beside one change them."""
    model, batch = network(tmp_path, "self.body[1].train()", "y"), torch.randn(4, 3, 8, 8)
    model.body[3].p = 0.0  # type: ignore[index,union-attr]
    found = batch_mixing(model, (batch,))
    assert "its forward changes buffer body.1.running_mean at " in found
    assert "model.py:16 `y = self.fc" in found


def test_a_large_constant_is_no_dependence_on_other_images() -> None:
    """Sums of a million round otherwise in a larger batch; in float64 nothing is left of the difference."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.GroupNorm(16, 16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.GroupNorm(16, 16)
    model = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, 3)).eval()
    nn.init.constant_(model[0].bias, 1e6)  # type: ignore[arg-type]
    found = batch_mixing(model, (torch.randn(8, 3, 12, 12),))
    assert found == "" or "so large that float32 holds little of the rest" in found


def test_kept_state_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    """A network that makes a tensor at its first call keeps no state; in storing, state is not told as random."""
    lazy = network(tmp_path, "self.table = getattr(self, 'table', None) or [torch.ones(3)]", "y + self.table[0]")
    assert kept_state(lazy, (torch.randn(SHAPE),)) == ""
    model = network(tmp_path, "self.fc.bias.data.mul_(2)", "y")
    before = model.fc.bias.detach().clone()  # type: ignore[union-attr,operator]
    assert kept_state(model, (torch.randn(SHAPE),)).startswith("parameter fc.bias at ")
    assert torch.equal(model.fc.bias, before)  # type: ignore[union-attr,arg-type]


def test_a_network_that_keeps_state_is_not_told_as_a_random_one(tmp_path: Path) -> None:
    """The buffer is named where the certificate would blame a rule, and where storing would blame random numbers."""
    file = tmp_path / "model.py"
    model = network(tmp_path, "self.body[1].running_mean.sub_(1)", "y")
    with pytest.raises(InputError, match=r"its forward changes buffer body.1.running_mean at .*model\.py:15"):
        Trial(model, (torch.randn(2, *SHAPE[1:]),)).check_repeatable()
    (tmp_path / "stored").mkdir()
    with pytest.raises(InputError, match=r"its forward changes buffer body.1.running_mean at .*model\.py:15"):
        write_original(tmp_path / "stored", model, file, {}, (TensorSpec(name="input", shape=SHAPE),))
