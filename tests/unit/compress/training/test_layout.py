"""Images lie as kernels want them, unless the network's own code cannot be run so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.training.layout import fitting_layout, for_kernels

if TYPE_CHECKING:
    from collections.abc import Callable


class Flat(nn.Module):
    """A convolution whose maps are made flat in one way or another; counts its calls."""

    def __init__(self, flat: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.flat, self.calls = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), flat, 0

    def forward(self, images: Tensor) -> Tensor:
        """Return maps made flat."""
        self.calls += 1
        return self.flat(self.norm(self.conv(images)))


def refuse(maps: Tensor) -> Tensor:
    """Fail however maps lie."""
    raise ValueError(tuple(maps.shape))


@pytest.mark.parametrize(
    ("flat", "layout"),
    [
        (lambda maps: maps.flatten(1), torch.channels_last),
        (lambda maps: maps.view(len(maps), -1), torch.contiguous_format),
        (refuse, torch.channels_last),
    ],
    ids=["flatten", "view", "failing"],
)
def test_what_runs_decides(flat: Callable[[Tensor], Tensor], layout: torch.memory_format) -> None:
    """Channels last first; the network has changed in nothing but how its weights lie."""
    model, images = Flat(flat).train(), torch.randn(2, 2, 5, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert fitting_layout(model, lambda given: model(*given), (images,)) == layout
    assert (model.training, model.calls) == (True, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    if flat is not refuse:
        assert model.conv.weight.is_contiguous(memory_format=layout)
        assert model(for_kernels(images, layout)).shape == (2, 27)


def test_other_inputs_have_no_layout() -> None:
    """Nothing is run for them."""
    assert fitting_layout(nn.Linear(2, 2), refuse, (torch.ones(3, 2),)) == torch.channels_last  # type: ignore[arg-type]
    rows = torch.ones(3, 2)
    assert for_kernels(rows, torch.channels_last) is rows
