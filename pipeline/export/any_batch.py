"""Does a network's exported graph compute the same as the network for another batch than the one that was traced?

torch turns sizes such as `int(windows.shape[0] / (height * width / 16))` into the number that they were, and leaves a
condition on the batch behind that no file holds: images of other batches are mixed up without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pipeline.compress.state.reproduction import example_for

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

#: Largest difference of outputs that the same operations have, relative to their scale.
TOLERANCE = 1e-5


def takes_other_batch(program: ExportedProgram | None, model: nn.Module, samples: tuple[Tensor, ...]) -> bool:
    """Run both on random samples (zeros of integers), one more than in `samples` [N, ...] of each input.

    What fails or is random does not count as the same.
    """
    shapes = [((len(each) + 1, *each.shape[1:]), str(each.dtype).removeprefix("torch.")) for each in samples]
    if program is None:
        return False
    try:
        with torch.no_grad():
            wanted, found = _tensors(model(*example_for(shapes))), _tensors(program.module()(*example_for(shapes)))
    except Exception:  # noqa: BLE001 - sizes that do not fit, as any operator tells it
        return False
    return len(wanted) == len(found) and all(map(_near, wanted, found))


def _tensors(outputs: object) -> list[Tensor]:
    return [each for each in tree_leaves(outputs) if isinstance(each, Tensor)]


def _near(wanted: Tensor, found: Tensor) -> bool:
    """Say whether two outputs agree; what is no number in both does."""
    if wanted.shape != found.shape:
        return False
    one, other = wanted.double(), found.double()
    scale = float(one.nan_to_num(0, 0, 0).abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
