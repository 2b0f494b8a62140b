"""Weights fit by name, shape and type, or the message lists what does not."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.errors import InputError
from pipeline.network.weights import load_weights, read_weights

if TYPE_CHECKING:
    from pathlib import Path


class Network(nn.Module):
    """A layer called `module` in a network, and buffers of several types."""

    def __init__(self) -> None:
        """Make 2 x 3 weights, an integer counter and a float mask."""
        super().__init__()
        self.module = nn.Linear(3, 2)
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mask", torch.zeros(2))


def own() -> dict[str, Tensor]:
    """Return weights that fit it."""
    return {
        "steps": torch.tensor(7),
        "mask": torch.tensor([0.0, 1.0]),
        "module.weight": torch.arange(6.0).reshape(2, 3) / 7,
        "module.bias": torch.tensor([1.0, 2.0]),
    }


PLAIN = {name.removeprefix("module."): tensor for name, tensor in own().items() if "module" in name}
#: Names in the file -> the network that they are for.
NAMES = {
    "own": (own(), Network),
    "all wrapped": ({f"module.{name}": tensor for name, tensor in own().items()}, Network),
    "compiled": ({f"_orig_mod.{name}": tensor for name, tensor in own().items()}, Network),
    "compiled and wrapped": ({f"_orig_mod.module.{name}": tensor for name, tensor in own().items()}, Network),
    "plain": (PLAIN, lambda: nn.Linear(3, 2)),
    "wrapped plain": ({f"module.{name}": tensor for name, tensor in PLAIN.items()}, lambda: nn.Linear(3, 2)),
    "layer called module alone": (
        {f"module.{name}": tensor for name, tensor in PLAIN.items()},
        lambda: nn.ModuleDict({"module": nn.Linear(3, 2)}),
    ),
    "that layer wrapped": (
        {f"module.module.{name}": tensor for name, tensor in PLAIN.items()},
        lambda: nn.ModuleDict({"module": nn.Linear(3, 2)}),
    ),
    "beside its own name": (
        {**PLAIN, **{f"module.{name}": tensor + 1 for name, tensor in PLAIN.items()}},
        lambda: Beside(),  # noqa: PLW0108 - defined below
    ),
}


class Beside(nn.Linear):
    """Has `weight` and `module.weight`."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.module = nn.Linear(3, 2)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("case", NAMES)
def test_a_wrappers_prefix_is_taken_away_and_a_layers_name_is_not(case: str, suffix: str, tmp_path: Path) -> None:
    """Only where all names have it and the network's do not; every tensor arrives where it belongs."""
    weights, make = NAMES[case]
    file = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(weights, file)
    else:
        save_file(weights, file)
    model = make()
    load_weights(model, read_weights(file), str(file))
    for given, (name, found) in zip(weights.values(), model.state_dict().items(), strict=True):
        assert torch.equal(found, given), name


def quantized(values: Tensor) -> Tensor:
    """Return them in torch's own quantized type, which still exists in old files."""
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(values, 0.5, 0, torch.qint8)


W = "module.weight"
VALUES = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, 1.0]])
#: What is in the file in place of a tensor -> the values that the network gets.
CONVERTED = {
    "half": (W, VALUES.half(), VALUES),
    "bfloat16": (W, VALUES.bfloat16(), VALUES),
    "double": (W, VALUES.double(), VALUES),
    "sparse": (W, VALUES.to_sparse(), VALUES),
    "counter as float": ("steps", torch.tensor(5.0), torch.tensor(5)),
    "counter as int32": ("steps", torch.tensor(5, dtype=torch.int32), torch.tensor(5)),
    "mask as bool": ("mask", torch.tensor([True, False]), torch.tensor([1.0, 0.0])),
    "mask as int64": ("mask", torch.tensor([3, 4]), torch.tensor([3.0, 4.0])),
    "mask of -inf": ("mask", torch.tensor([float("-inf"), 0.0]).double(), torch.tensor([float("-inf"), 0.0])),
}
REFUSED = {
    "int8": (W, VALUES.to(torch.int8), "is int8, the model has float32: integers are quantized weights"),
    "int64": (W, VALUES.long(), "is int64, the model has float32: integers are quantized"),
    "bool": (W, VALUES > 0, "is bool, the model has float32"),
    "complex": (W, VALUES + 1j, "is complex64, the model has float32: the imaginary part would be lost"),
    "complex without imaginary part": (W, VALUES + 0j, "is complex64"),
    "too large": (W, VALUES.double() * 1e300, "has values that float32, which the model has, cannot hold"),
    "not a number": (W, VALUES / VALUES.new_zeros(1), "has values that are not a number"),
    "counter with a fraction": ("steps", torch.tensor(5.5), "has values that int64, which the model has, cannot hold"),
    "counter not a number": ("steps", torch.tensor(float("nan")), "cannot hold"),
    "mask beyond float32": ("mask", torch.tensor([2**24 + 1, 0]), "cannot hold"),
    "complex mask": ("mask", torch.tensor([1j, 0]), "the imaginary part would be lost"),
    "quantized": (W, quantized(VALUES), r"is quantized by torch \(qint8\): save tensor.dequantize\(\)"),
    "meta": (W, torch.zeros(2, 3, device="meta"), "is on the meta device and holds no values"),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_types_are_converted_where_that_keeps_the_values(case: str, tmp_path: Path) -> None:
    """Floats are rounded, sparse tensors are spread out, buffers convert exactly."""
    name, given, expected = CONVERTED[case]
    torch.save({**own(), name: given}, tmp_path / "w.pt")
    model = Network()
    load_weights(model, read_weights(tmp_path / "w.pt"), "w.pt")
    found = model.state_dict()[name]
    assert (found.dtype, found.layout) == (expected.dtype, torch.strided)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_become_other_weights_is_refused(case: str) -> None:
    """The tensor is named with both types and what to do; the network stays as it was."""
    name, given, expected = REFUSED[case]
    model = Network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=rf"w\.pt has tensors that the model cannot take: 1\n  {name}: .*{expected}"):
        load_weights(model, {**own(), name: given}, "w.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
