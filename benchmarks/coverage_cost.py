"""Multiply-accumulates of a network and of its layers, counted on the operators that really run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def macs(model: nn.Module, example: tuple[Tensor, ...]) -> int:
    """Return the multiply-accumulates of one sample: convolutions, linear layers, matrix products, attention."""
    return by_layer(model, example)[""]


def by_layer(model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, int]:
    """Return the multiply-accumulates of one sample by qualified module name; "" is the whole network."""
    counter = FlopCounterMode(display=False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)  # noqa: FBT003 (torch's own argument); the counter hooks gradients, which views have not
    with plain_attention(), counter, torch.no_grad():
        model(*example)
    for parameter in trained:
        parameter.requires_grad_()
    samples = len(example[0])
    root = type(model).__name__
    counts = {name: sum(found.values()) // 2 // samples for name, found in counter.get_flop_counts().items()}
    return {"": counts["Global"], **{name.removeprefix(f"{root}."): n for name, n in counts.items() if "." in name}}


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within the block, attention is matrix products: the counter does not know the fused kernels of a CPU."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
