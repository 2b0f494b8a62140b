"""Where the samples of a batch are in values of any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph.capture import CapturedGraph, capture_graph, record_values
from pipeline.compress.pruning.importance.samples import SampleAxis, sample_axes
from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable

Order = tuple["Callable[[Tensor], Tensor]", "Callable[[Tensor], Tensor]"]


class Rearranged(nn.Module):
    """A linear layer on four tokens of width 3 that one function puts in another order and one puts back."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.there, self.back = order
        self.linear = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens' features [N, 4, 5]."""
        return self.back(self.linear(self.there(x)))


def captured_linear(order: Order) -> tuple[CapturedGraph, str, int]:
    """Return the capture, the name of the node of the linear layer, and the dimension of its channels."""
    captured = capture_graph(Rearranged(order), (torch.randn(2, 4, 3),))
    node = next(node for node in captured.module.graph.nodes if node.name == "linear")
    return captured, node.name, len(node.meta["val"].shape) - 1


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((lambda x: x, lambda y: y), SampleAxis(0)),
        ((lambda x: x.transpose(0, 1), lambda y: y.transpose(0, 1)), SampleAxis(1)),
        ((lambda x: x.flatten(0, 1), lambda y: y.view(-1, 4, 5)), SampleAxis(0)),
        (
            (lambda x: x.transpose(0, 1).flatten(0, 1), lambda y: y.view(4, -1, 5).transpose(0, 1)),
            SampleAxis(0, interleaved=True),
        ),
    ],
    ids=["samples first", "tokens first", "blocks", "interleaved"],
)
def test_samples_are_found(order: Order, expected: SampleAxis) -> None:
    """Whatever the order, `first` brings the features of each sample together and `moved` finds their channels."""
    captured, node, channel = captured_linear(order)
    inputs = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
    found = sample_axes(captured, {node: channel}, (inputs,))[node]
    values = record_values(captured, [node], (inputs,))
    arranged = found.first(values[node], 3)
    assert found == expected
    assert torch.equal(arranged.reshape(3, 4, 5), values["output"])
    assert arranged.shape[found.moved(channel)] == 5


def test_mixed_rows_are_refused() -> None:
    """The first token of every sample, then the other three of each: neither blocks nor interleaved."""
    captured, node, channel = captured_linear(
        (lambda x: torch.cat([x[:, 0], x[:, 1:].flatten(0, 1)]), lambda y: y.view(-1, 4, 5))
    )
    with pytest.raises(StageError, match="cannot be separated along dimension 0 of linear"):
        sample_axes(captured, {node: channel}, (torch.randn(2, 4, 3),))


def test_values_without_a_batch_are_alike_for_all_samples() -> None:
    """A value of the shape [4, 5] becomes [samples, 1, 4, 5]."""
    value = torch.arange(20.0).view(4, 5)
    alike = SampleAxis(None)
    assert alike.first(value, 3).shape == (3, 1, 4, 5)
    assert torch.equal(alike.first(value, 3)[2, 0], value)
    assert alike.moved(1) == 3
