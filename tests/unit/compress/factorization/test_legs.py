"""Legs against the layer that they stand in for: every kind, stride, padding, dilation; merged back, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.factorization.legs import (
    Factor,
    build_legs,
    layer_cost,
    layer_matrix,
    leg_costs,
    padding_of,
    possible_kinds,
    set_weights,
)
from pipeline.compress.factorization.merging import merge_back
from pipeline.compress.factorization.moments import input_rows
from pipeline.compress.factorization.options import factor_weights
from pipeline.compress.pruning.cost import count_cost

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (2, 6)),
    "linear of rows, no bias": (lambda: nn.Linear(6, 9, bias=False), (2, 4, 6)),
    "1x1": (lambda: nn.Conv2d(6, 5, 1), (2, 6, 7, 5)),
    "1x1, stride, padding": (lambda: nn.Conv2d(6, 5, 1, stride=2, padding=1), (2, 6, 7, 5)),
    "3x3": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 9, 8)),
    "3x3, stride": (lambda: nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(0, 1)), (2, 4, 9, 11)),
    "3x3, dilation": (lambda: nn.Conv2d(4, 6, 3, dilation=(1, 2), padding=2, bias=False), (2, 4, 9, 8)),
    "5x3, same": (lambda: nn.Conv2d(4, 6, (5, 3), padding="same", dilation=(1, 2)), (2, 4, 9, 8)),
    "4x2, same": (lambda: nn.Conv2d(4, 6, (4, 2), padding="same"), (2, 4, 9, 8)),
    "3x3, valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), (2, 4, 9, 8)),
    "3x3, reflect": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 9, 8)),
    "3x3, circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2, padding_mode="circular"), (2, 4, 9, 8)),
    "3x1": (lambda: nn.Conv2d(4, 6, (3, 1), padding=(1, 0)), (2, 4, 9, 8)),
    "1d": (lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2), (2, 4, 17)),
    "3d": (lambda: nn.Conv3d(3, 4, (2, 3, 1), padding=(0, 1, 0)), (2, 3, 5, 6, 4)),
}
CASES = [(name, kind) for name, (make, _) in LAYERS.items() for kind in possible_kinds(make())]


#: What torch says of a kernel of four: it pads by a copy.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def given(name: str) -> tuple[Any, Tensor]:
    """Return a layer and an input of it, both float64."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().double().eval(), torch.randn(shape).double()


def full(layer: Any, kind: str) -> Factor:  # noqa: ANN401
    """Return the factor that loses nothing."""
    weight = layer_matrix(layer)
    if kind == "tucker":
        return Factor("tucker", (weight.shape[1], weight.shape[0]))
    if kind == "spatial":
        return Factor("spatial", (min(weight.shape[1] * weight.shape[2], weight.shape[0] * weight.shape[3]),))
    return Factor(kind, (min(weight.flatten(1).shape),))  # type: ignore[arg-type]


def test_every_kind_is_tried() -> None:
    """On layers of each class."""
    assert {kind for _, kind in CASES} == {"svd", "spatial", "channel", "tucker"}
    assert len(CASES) > 30


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("whitened", [False, True])
def test_full_rank_is_exact_and_merges_back(name: str, kind: str, *, whitened: bool) -> None:
    """The legs compute what the layer does, whatever its stride, padding and dilation; so does their product."""
    layer, value = given(name)
    rows = input_rows(layer, torch.cat([value, torch.randn_like(value)]), 10_000, torch.Generator())
    gram = rows.T @ rows / len(rows) + 0.05 * torch.eye(rows.shape[1], dtype=torch.float64) if whitened else None
    factor = full(layer, kind)
    legs = build_legs(layer, factor)
    set_weights(legs, factor_weights(layer_matrix(layer), factor, gram))
    torch.testing.assert_close(legs(value), layer(value), rtol=1e-8, atol=1e-10)
    merged: Any = merge_back(legs)
    torch.testing.assert_close(merged(value), layer(value), rtol=1e-8, atol=1e-10)
    assert repr(merged) == repr(layer)
    assert [leg.bias is None for leg in legs[:-1]] == [True] * (len(legs) - 1)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_costs_are_those_that_are_counted(name: str, kind: str) -> None:
    """Operations and parameters of the layer and of its legs, on a real forward pass of one sample."""
    layer, value = given(name)
    sizes = ((value[0, ..., 0].numel(),),) if isinstance(layer, nn.Linear) else (tuple(value.shape[2:]),)
    outputs, inputs = layer_matrix(layer).shape[:2]
    bias = 0 if layer.bias is None else len(layer.bias)
    one = layer_cost(layer, sizes)
    counted = count_cost(layer, value)
    assert (one.macs * outputs * inputs, one.parameters * outputs * inputs + bias) == (counted.macs, counted.parameters)
    ranks = (2, 3) if kind == "tucker" else (2,)
    pairs = [a * b for a, b in zip((inputs, *ranks), (*ranks, outputs), strict=True)]
    costs = leg_costs(layer, kind, sizes)  # type: ignore[arg-type]
    found = count_cost(build_legs(layer, Factor(kind, ranks)), value)  # type: ignore[arg-type]
    assert sum(pair * leg.macs for pair, leg in zip(pairs, costs, strict=True)) == found.macs
    assert sum(pair * leg.parameters for pair, leg in zip(pairs, costs, strict=True)) + bias == found.parameters


@pytest.mark.parametrize("name", [name for name in LAYERS if not name.startswith("linear")])
def test_patches_are_what_a_convolution_sees(name: str) -> None:
    """The weight times all patches is the output, place by place."""
    layer, value = given(name)
    rows = input_rows(layer, value, 100_000, torch.Generator())
    found = (rows @ layer.weight.flatten(1).T).reshape(len(value), -1, layer.out_channels)
    expected = layer(value).flatten(2).transpose(1, 2)
    expected = expected if layer.bias is None else expected - layer.bias
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert len(input_rows(layer, value, 6, torch.Generator())) == 6
    assert len(padding_of(layer)) == len(layer.kernel_size)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True}, {"bias": False}]
)
def test_recurrent_layers_have_a_linear_layer_before_them(make: Any, options: dict[str, Any]) -> None:  # noqa: ANN401
    """Of outputs and states; the matrix of the states stays as it is, and the product is one matrix again."""
    torch.manual_seed(0)
    layer = make(6, 5, **options).double()
    value = torch.randn(3, 4, 6).double()
    factor = Factor("svd", (min(layer_matrix(layer).shape),))
    legs = build_legs(layer, factor)
    set_weights(legs, factor_weights(layer_matrix(layer), factor, None))
    assert [type(leg) for leg in legs] == [nn.Linear, make]
    assert layer.input_size == 6
    for found, wanted in zip(legs(value), layer(value), strict=True):
        for one, other in zip(
            torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(wanted), strict=True
        ):
            torch.testing.assert_close(one, other)
    torch.testing.assert_close(merge_back(legs)(value)[0], layer(value)[0])
    narrow = build_legs(layer, Factor("svd", (2,)))
    assert narrow(value)[0].shape == layer(value)[0].shape


def test_what_is_no_product_is_not_merged() -> None:
    """Another layer between, a bias before the last leg, groups, two kernels along one axis."""
    for wrong, said in [
        (nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 4)), "no legs of one layer: Linear, ReLU"),
        (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4)), "has a bias"),
        (nn.Sequential(nn.Linear(4, 3, bias=False)), "no legs of one layer"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.Conv2d(4, 4, 1)), "channels do not follow"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3)), "2 legs act along axis 0"),
        (nn.Sequential(nn.Conv2d(4, 4, 1, bias=False, padding=1), nn.Conv2d(4, 4, (1, 3))), "act along axis 1"),
    ]:
        with pytest.raises(ValueError, match=said):
            merge_back(wrong)


def test_a_layer_keeps_its_type_and_what_trains() -> None:
    """Half precision, a frozen weight, the training mode."""
    layer = nn.Linear(6, 5).half()
    layer.weight.requires_grad_(False)  # noqa: FBT003 - torch's own
    legs = build_legs(layer, Factor("svd", (2,)))
    assert [(each.dtype, each.requires_grad) for each in legs.parameters()] == [
        (torch.float16, False),
        (torch.float16, False),
        (torch.float16, True),
    ]
    for training in (True, False):
        made = build_legs(layer.train(training), Factor("svd", (2,)))
        assert [each.training for each in made.modules()] == [training] * 3
    assert torch.equal(legs[1].bias, layer.bias)  # type: ignore[arg-type]
    assert float(sum(leg.weight.abs().sum() for leg in legs)) == 0  # type: ignore[union-attr,operator,arg-type,misc]


def test_kinds_of_other_layers() -> None:
    """A convolution in groups, a transposed one and a class of the user's have none."""

    class Own(nn.Linear):
        pass

    for layer in (nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 4, 3), Own(3, 3), nn.ReLU()):
        assert possible_kinds(layer) == ()
        with pytest.raises(ValueError, match="does not fit"):
            build_legs(layer, Factor("svd", (1,)))
    for wrong in ({"kind": "cp", "ranks": [1]}, {"kind": "svd", "ranks": [1, 2]}, {"kind": "svd", "ranks": [0]}):
        with pytest.raises(ValueError, match="no factorisation"):
            Factor.from_json(wrong)
    assert Factor.from_json(Factor("tucker", (2, 3)).as_json()) == Factor("tucker", (2, 3))
