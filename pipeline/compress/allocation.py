"""Allocation: how many channels each group keeps. Which ones it keeps is decided by their scores alone.

An allocation is a function (scores, ratio, floor, align) -> kept indices by group. A further one, by measured latency
for instance, is one more such function here.
"""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import TYPE_CHECKING

import torch

from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

Kept = dict[str, tuple[int, ...]]


def uniform(scores: Mapping[str, Tensor], ratio: float, *, floor: float = 0.1, align: int = 8) -> Kept:
    """Keep the same fraction of every group.

    Args:
        scores: [width] by group; the lowest leave, of equal ones those with the highest index.
        ratio: fraction of the channels to remove, in (0, 1).
        floor: smallest fraction that a group keeps.
        align: kept widths are rounded to the nearest multiple of it (see `aligned`).

    Raises:
        StageError: a score is not a finite number.
    """
    return {
        name: _best(name, score, aligned(len(score), (1 - ratio) * len(score), floor=floor, align=align))
        for name, score in scores.items()
    }


def global_ranking(scores: Mapping[str, Tensor], ratio: float, *, floor: float = 0.1, align: int = 8) -> Kept:
    """Rank the channels of all groups together and remove the fraction `ratio` with the lowest scores.

    Scores are divided by their group's mean, which makes groups comparable. The best of each group, a fraction `floor`,
    are no candidates. Groups no wider than `align` stay whole and do not count in the fraction. Arguments and errors
    are those of `uniform`. Rounding to `align` comes last, so the fraction that leaves can differ from `ratio`.

    Source: global ranking with a protected share of each group, as in DepGraph (Fang et al., CVPR 2023).

    Raises:
        InputError: the floors protect more channels than `ratio` would leave.
    """
    ranked: list[tuple[float, str]] = []
    total = 0
    for name, score in scores.items():
        if len(score) > align:
            comparable = score.double() / (float(score.double().mean()) or 1.0)
            candidates = comparable.sort().values[: len(score) - ceil(floor * len(score))]
            ranked += [(value, name) for value in candidates.tolist()]
            total += len(score)
    wanted = round(ratio * total)
    if wanted > len(ranked):
        raise InputError(
            f"ratio {ratio} asks to remove {wanted} of {total} channels, but with floor {floor} only {len(ranked)} may "
            "leave. Lower one of them."
        )
    lost = Counter(name for _, name in sorted(ranked)[:wanted])
    return {
        name: _best(name, score, aligned(len(score), len(score) - lost[name], floor=floor, align=align))
        for name, score in scores.items()
    }


def aligned(width: int, wanted: float, *, floor: float, align: int) -> int:
    """Return the width to keep: the multiple of `align`, or the whole width, that is nearest to `wanted`.

    Never less than `align` or than the fraction `floor`; a group no wider than `align` stays whole. Of two that are
    equally near, the wider.
    """
    allowed = [kept for kept in range(align, width, align) if kept >= floor * width]
    return min([width, *reversed(allowed)], key=lambda kept: abs(kept - wanted))


def _best(name: str, score: Tensor, count: int) -> tuple[int, ...]:
    """Return the indices of the `count` highest scores in ascending order."""
    if not torch.isfinite(score).all():
        raise StageError(f"Group {name!r} has scores that are not finite numbers. Check the weights for NaN.")
    return tuple(sorted(score.argsort(descending=True, stable=True)[:count].tolist()))
