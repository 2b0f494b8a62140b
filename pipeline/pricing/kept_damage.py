"""Damage of single moves that is kept: of one network on the same samples it is the same for every target."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.damage import MeasuredDamage
from pipeline.core.artifact import FrozenModel
from pipeline.core.paths import cache_root
from pipeline.latency.device_cache import keep_record, read_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from pipeline.compress.pruning.damage import DamageMeter
    from pipeline.compress.pruning.depth import ResidualBlock

#: Bump this when the same network and samples would now give other losses.
_REVISION = 1


class _Record(FrozenModel):
    whole: float
    groups: dict[str, tuple[int, float]]
    blocks: dict[str, float]


def measured_or_kept(
    meter: DamageMeter,
    scores: Mapping[str, Tensor],
    grids: Mapping[str, Sequence[int]],
    blocks: Sequence[ResidualBlock],
    told: Callable[[int, int, str], None],
) -> MeasuredDamage:
    """Return `meter.measured(...)`, of an earlier time where all that it depends on is the same.

    Kept for classifiers of images alone: the loss of any other task may be the user's code.
    """
    if meter.samples.task().images is None:
        return meter.measured(scores, grids, blocks, told)
    file = cache_root() / "damage" / f"{_digest(meter, scores, grids, blocks)}.json"
    record = read_kept(file, _Record)
    if record is None:
        found = meter.measured(scores, grids, blocks, told)
        record = _Record(whole=found.whole, groups={**found.groups}, blocks={**found.blocks})
        keep_record(file, record)
    return MeasuredDamage(record.whole, record.groups, record.blocks)


def _digest(
    meter: DamageMeter,
    scores: Mapping[str, Tensor],
    grids: Mapping[str, Sequence[int]],
    blocks: Sequence[ResidualBlock],
) -> str:
    """Return the sha256 of the network, the samples in their batches, and the moves."""
    said = {
        "revision": _REVISION,
        "torch": torch.__version__,
        "graph": str(meter.captured.module.code),
        "grids": {name: list(grid) for name, grid in grids.items()},
        "blocks": {block.name: list(block.layers) for block in blocks},
    }
    found = hashlib.sha256(json.dumps(said, sort_keys=True, allow_nan=False).encode())
    for name, tensor in [*sorted(meter.captured.stored.items()), *sorted(scores.items())]:
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(_bytes(tensor))
    for inputs, targets in meter.samples.for_loss():
        for tensor in (*inputs, targets):
            found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
