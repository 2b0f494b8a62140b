"""Which layers can be replaced: those that the network calls, and of which it reads nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.factorization.legs import Factor
from pipeline.compress.factorization.replacing import (
    above_break_even,
    factor_layers,
    merge_layers,
    place_factors,
    place_merged,
)
from pipeline.compress.factorization.sites import find_sites
from pipeline.compress.pruning.cost import count_cost


class Odd(nn.Module):
    """A network with one layer of each fate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.read = nn.Conv2d(8, 8, 1)
        self.training_read = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.rows = nn.Linear(8, 12)
        self.tied = nn.Linear(12, 12)
        self.other = nn.Linear(12, 12)
        self.other.weight = self.tied.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(12, 12))
        self.states = nn.LSTM(12, 6, batch_first=True)
        self.given_states = nn.GRU(6, 6, batch_first=True)
        self.keyword = nn.Linear(6, 6)
        self.packed = nn.LSTM(6, 6, batch_first=True)
        self.unused = nn.Linear(4, 4)
        self.functional = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores [N, 3]."""
        value = self.depthwise(self.stem(images))
        value = self.read(value) / self.read.weight.abs().sum()
        value = self.training_read(value)
        if self.training:
            value = value + 0 * self.training_read.weight.sum()
        rows = self.up(value).flatten(2).transpose(1, 2)
        rows = self.rows(self.attention(rows, rows, rows)[0])
        rows = self.normed(self.other(self.tied(rows)))
        rows, _ = self.states(rows)
        rows, _ = self.given_states(rows, torch.zeros(1, len(rows), 6))
        rows = self.keyword(input=rows)
        packed, _ = self.packed(nn.utils.rnn.pack_padded_sequence(rows, [25] * len(rows), batch_first=True))
        rows, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)
        return nn.functional.linear(rows.mean(1), self.functional.weight)


def test_each_layer_is_a_site_or_has_a_reason() -> None:
    """Sites come in order, with what one sample brings to each call."""
    torch.manual_seed(0)
    model = Odd()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sites, reasons = find_sites(model, (torch.randn(2, 3, 8, 8),))
    assert {site.name: (site.kinds, site.sizes) for site in sites} == {
        "stem": (("spatial", "channel", "tucker"), ((8, 8),)),
        "rows": (("svd",), ((25,),)),
        "states": (("svd",), ((25,),)),
    }
    assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
        "depthwise": "its channels are in groups, which do not mix",
        "read": "the network reads more of it than its output, or calls it with more than one input",
        "training_read": "the network reads more of it than its output, or calls it with more than one input",
        "up": "transposed convolutions are not factorised",
        "attention": "nn.MultiheadAttention reads the weights of its projections itself, so no layers can stand in for "
        "them",
        "attention.out_proj": "its class NonDynamicallyQuantizableLinear may compute something else than the torch "
        "layer that it extends",
        "tied": "shares its weight with other",
        "other": "shares its weight with tied",
        "normed": "its class ParametrizedLinear may compute something else than the torch layer that it extends",
        "given_states": "the network reads more of it than its output, or calls it with more than one input",
        "keyword": "the network does not call it with a tensor by position",
        "packed": "the network does not call it with a tensor by position",
        "unused": "the network does not call it with a tensor by position",
        "functional": "the network does not call it with a tensor by position",
    }
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def small() -> nn.Sequential:
    """Return a network of two layers to factorise."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 25, 32))


def test_factors_and_back() -> None:
    """Costs are those of the sites; what is placed without weights has the shapes of what was factorised."""
    model, example = small(), (torch.randn(2, 4, 5, 5),)
    (conv, linear), _ = find_sites(model, example)
    whole = count_cost(model, example)
    assert conv.cost.macs + linear.cost.macs == whole.macs
    factors = {"0": Factor("channel", (5,)), "3": Factor("svd", (9,))}
    empty = small()
    factor_layers(model, factors, {})
    place_factors(empty, factors)
    assert {name: each.shape for name, each in empty.state_dict().items()} == {
        name: each.shape for name, each in model.state_dict().items()
    }
    outputs = model(*example)
    merge_layers(model, ["0", "3"])
    place_merged(empty, ["0", "3"])
    torch.testing.assert_close(model(*example), outputs)
    assert repr(model) == repr(small())
    assert model.state_dict().keys() == empty.state_dict().keys()
    with pytest.raises(ValueError, match="0 is Conv2d, expected the legs"):
        merge_layers(model, ["0"])


def test_what_costs_as_much_as_one_layer_is_found() -> None:
    """Rank 5 of 4 to 16 channels pays, rank 12 does not; nor does a pair whose outer channels have gone since."""
    example = (torch.randn(2, 4, 5, 5),)
    model = small()
    factor_layers(model, {"0": Factor("channel", (5,)), "3": Factor("svd", (30,))}, {})
    assert above_break_even(model, ["0", "3"], example) == ["3"]
    model = small()
    factor_layers(model, {"0": Factor("channel", (12,))}, {})
    assert above_break_even(model, ["0"], example) == ["0"]
