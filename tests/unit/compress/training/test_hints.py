"""Losses on feature and attention maps, against numbers worked out by hand; which layers are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.training.hints import (
    Hints,
    attention_loss,
    attention_map,
    feature_loss,
    last_at_each_size,
    recorded_maps,
    usable_maps,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def maps(*channels: Sequence[Sequence[float]]) -> Tensor:
    """Return one sample's map [1, C, H, W]."""
    return torch.tensor([channels])


def test_features_are_compared_with_the_kept_channels() -> None:
    """Kept 2 and 0, in this order: ((1-3)^2 + (2-4)^2 + 0 + 0) / (9 + 16 + 1 + 1)."""
    teacher = maps([[1.0, 1.0]], [[50.0, 50.0]], [[3.0, 4.0]])
    student = maps([[1.0, 2.0]], [[1.0, 1.0]])
    assert float(feature_loss(student, teacher, torch.tensor([2, 0]))) == pytest.approx(8 / 27)
    assert float(feature_loss(torch.zeros_like(student), teacher, torch.tensor([2, 0]))) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"maps \(1, 2, 1, 2\) and \(1, 1, 1, 2\)"):
        feature_loss(student, teacher, torch.tensor([0]))


def test_attention_is_where_activations_are_large() -> None:
    """Squares summed over channels: [9 + 16, 0] and [0, 7]; as vectors of length 1 they are sqrt(2) apart."""
    left, right = maps([[3.0, 0.0]], [[-4.0, 0.0]]), maps([[0.0, 7.0]])
    assert attention_map(left).tolist() == [[[25.0, 0.0]]]
    assert float(attention_loss(left, right)) == pytest.approx(2)
    assert float(attention_loss(left, 5 * left)) == pytest.approx(0)
    # [9, 16] / sqrt(337) against [1, 0]
    found = float(attention_loss(maps([[3.0, 4.0]]), maps([[1.0, 0.0]])))
    assert found == pytest.approx((9 / 337**0.5 - 1) ** 2 + 256 / 337)


def test_attention_of_other_positions_is_resampled() -> None:
    """A teacher with four times the positions that looks at the same half."""
    half = torch.zeros(1, 1, 2, 2)
    half[..., 0] = 1
    teacher = half.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float(attention_loss(half, teacher)) < 0.1 < float(attention_loss(half, teacher.flip(3)))


def test_terms_are_weighted_means_over_layers() -> None:
    """Half of the sum of two feature losses times 3, and one attention loss times 5."""
    one, two = maps([[1.0, 2.0]]), maps([[2.0, 2.0]])
    kept = torch.tensor([0])
    hints = Hints({"a": kept, "b": kept}, ("a",), 3.0, 5.0)
    student, teacher = {"a": one, "b": one}, {"a": two, "b": one}
    expected = 3 * float(feature_loss(one, two, kept)) / 2 + 5 * float(attention_loss(one, two))
    assert float(hints.loss(student, teacher)) == pytest.approx(expected)
    assert hints.layers == ("a", "b")


class Twice(nn.Module):
    """A layer that is called twice, one that writes in place, and maps of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.stage = nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.BatchNorm2d(3))
        self.fc = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        hidden: Tensor = self.act(self.stage(self.act(self.conv(images))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def test_the_last_layer_at_each_size_is_chosen() -> None:
    """Not the activation, which is called twice, nor the linear layer; the outermost of those that end together."""
    model, images = Twice().eval(), torch.ones(2, 1, 4, 4)
    found = usable_maps(model, lambda: model(images))
    assert found == {
        "conv": (2, 2, 4, 4),
        "stage.0": (2, 3, 2, 2),
        "stage.1": (2, 3, 2, 2),
        "stage": (2, 3, 2, 2),
    }
    assert last_at_each_size(found) == ("conv", "stage")


def test_maps_are_those_before_later_layers_write_into_them() -> None:
    """The activation works in place; no hook stays behind."""
    model, images = Twice().eval(), torch.randn(2, 1, 4, 4)
    with recorded_maps(model, ("conv",)) as found:
        model(images)
    assert torch.equal(found["conv"], model.conv(images))
    assert (found["conv"] < 0).any()
    assert not any(layer._forward_hooks for layer in model.modules())
