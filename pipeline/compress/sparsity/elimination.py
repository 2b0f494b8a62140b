"""Weights leave one at a time, the cheapest first, and those that stay make up for each: what OBS does to many rows.

Rows are independent: each has its own quadratic loss. So each is followed to its end alone, and then the cheapest steps
of all rows are taken together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

#: Bytes of inverse Hessians that are worked on at once.
WORKING_BYTES = 2**26


@dataclass(frozen=True)
class RowTraces:
    """How each row loses its weights.

    Attributes:
        losses: increase of the loss by each step, float64 [R, S].
        columns: which weight left in it, int64 [R, S].
    """

    losses: Tensor
    columns: Tensor


def rows_at_once(width: int, working_bytes: int = WORKING_BYTES) -> int:
    """Return how many rows with `width` weights are eliminated together: 8 * width^2 bytes each, at least one row."""
    return max(1, working_bytes // (8 * width * width))


def eliminate_rows(
    weight_RK: Tensor, inverse_RKK: Tensor, *, pattern: tuple[int, int] | None = None, rows: int | None = None
) -> RowTraces:
    """Return in which order the weights of each row leave, and what each step costs.

    A step takes j = argmin w_j^2 / (2 [H^-1]_jj), changes the others by -w_j [H^-1]_:j / [H^-1]_jj, and leaves j out of
    H^-1. Weights that are zero already cost nothing and leave first, so that what was sparse stays sparse.

    Args:
        weight_RK: float64 [R, K].
        inverse_RKK: the inverse Hessian of each row, or one for all: [R, K, K] or [1, K, K]. Not changed.
        pattern: (n, m): each run of m weights keeps n; the steps are then K * (m - n) / m, else K.
        rows: rows worked on together, 8 to 16 * K^2 bytes each; by default as many as `rows_at_once` says.

    Source: Hassibi and Stork, Optimal Brain Surgeon, NeurIPS 1992; Frantar et al., Optimal Brain Compression, 2022,
    algorithm 1, for the update of the inverse.
    Raises: InputError when K is no multiple of m.
    Cost: about K^3 / 3 multiply-adds for each row, nearly all of them in products of matrices.
    """
    width = weight_RK.shape[1]
    check_pattern(pattern, width)
    steps = width if pattern is None else width // pattern[1] * (pattern[1] - pattern[0])
    rows = rows or rows_at_once(width)
    parts = []
    for start in range(0, len(weight_RK), rows):
        weight = weight_RK[start : start + rows]
        inverse = inverse_RKK if len(inverse_RKK) == 1 else inverse_RKK[start : start + rows]
        parts.append(_eliminate(weight.clone(), inverse.expand(len(weight), -1, -1), steps, pattern))
    return RowTraces(*(torch.cat([getattr(part, name) for part in parts]) for name in ("losses", "columns")))


def check_pattern(pattern: tuple[int, int] | None, width: int) -> None:
    """Raise InputError where runs of m do not divide a row, or n of m is not less than all and more than none."""
    if pattern and (width % pattern[1] or not 0 < pattern[0] < pattern[1]):
        raise InputError(f"A pattern {pattern[0]}:{pattern[1]} does not divide rows of {width} weights.")


def merge_traces(losses: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return how many steps each row takes, int64 [R] for each layer, so that `count` weights leave most cheaply.

    The cheapest next step of all rows is taken until there are `count`: as a row may have a cheap step behind a dear
    one, this is the order of the largest loss so far in each row.

    Args:
        losses: [R, S] for each layer, in one unit where there are several.
        count: how many weights leave.

    Source: Frantar et al., Optimal Brain Compression, 2022, algorithm 2 (global step selection).
    Raises: InputError when there are fewer steps than `count`.
    """
    available = sum(each.numel() for each in losses)
    if not 0 <= count <= available:
        raise InputError(f"{count} weights cannot leave where {available} may.")
    highest = [each.cummax(1).values if each.numel() else each for each in losses]
    taken = torch.zeros(available, dtype=torch.bool)
    taken[torch.cat([each.reshape(-1) for each in highest]).argsort(stable=True)[:count]] = True
    parts = torch.split(taken, [each.numel() for each in losses])
    return [part.reshape(each.shape).sum(1) for part, each in zip(parts, losses, strict=True)]


def kept_support(traces: RowTraces, steps_R: Tensor, width: int) -> Tensor:
    """Return which weights are still there after so many steps of each row, bool [R, width]."""
    places = torch.arange(traces.columns.shape[1], device=traces.columns.device)
    leaves = places[None] < steps_R[:, None]
    rows = torch.arange(len(steps_R), device=leaves.device)[:, None].expand_as(leaves)
    support = leaves.new_ones(len(steps_R), width)
    support[rows[leaves], traces.columns[leaves]] = False
    return support


class _Batch:
    """Rows that are eliminated together; `names` are the columns that are still in the matrices.

    The current inverse is `inverse` less the sum of v v^T over `pending`: its columns are worked out when they are
    needed, and the sum is taken off in one product once there are enough.
    """

    def __init__(self, weight: Tensor, inverse: Tensor) -> None:
        self.weight = weight
        self.rows = torch.arange(len(weight), device=weight.device)
        self.names = torch.arange(weight.shape[1], device=weight.device).expand(len(weight), -1)
        self._settle(inverse)

    def _settle(self, inverse: Tensor) -> None:
        width = inverse.shape[1]
        self.inverse, self.diagonal = inverse, inverse.diagonal(dim1=1, dim2=2).clone()
        self.gone = torch.zeros_like(self.weight, dtype=torch.bool)
        self.used, most = 0, min(max(width // 16, 8), 48)
        self.pending = inverse.new_zeros(len(inverse), most, width)

    def leave(self, place: Tensor) -> None:
        """Take one weight of each row out, and let the others make up for it."""
        before = self.pending[:, : self.used]
        shares = before[self.rows, :, place][:, None]
        column = self.inverse[self.rows, place] - (shares @ before)[:, 0]
        pivot = column[self.rows, place][:, None]
        self.weight -= self.weight[self.rows, place][:, None] / pivot * column
        self.gone[self.rows, place] = True
        self.weight.masked_fill_(self.gone, 0.0)
        self.pending[:, self.used] = column / pivot.sqrt()
        self.diagonal -= self.pending[:, self.used].square()
        self.used += 1
        if self.used == self.pending.shape[1]:
            self._shrink()

    def _shrink(self) -> None:
        """Drop the columns that have left, as many in each row, and take off what is pending."""
        kept = (~self.gone).nonzero()[:, 1].reshape(len(self.weight), -1)
        inverse = self.inverse[self.rows[:, None, None], kept[:, :, None], kept[:, None]]
        pending = self.pending.gather(2, kept[:, None].expand(-1, self.used, -1))
        self.weight, self.names = self.weight.gather(1, kept), self.names.gather(1, kept)
        self._settle(inverse.baddbmm_(pending.transpose(1, 2), pending, alpha=-1))


def _eliminate(weight: Tensor, inverse: Tensor, steps: int, pattern: tuple[int, int] | None) -> RowTraces:
    batch = _Batch(weight, inverse)
    losses = weight.new_empty(len(weight), steps)
    columns = torch.empty(losses.shape, dtype=torch.int64, device=weight.device)
    runs = _Runs(weight, pattern) if pattern else None
    for step in range(steps):
        scores = (batch.weight.square() / (2 * batch.diagonal)).masked_fill(batch.gone, torch.inf)
        if runs:
            scores = scores.masked_fill(runs.reached(batch.names), torch.inf)
        losses[:, step], place = scores.min(1)
        columns[:, step] = batch.names[batch.rows, place]
        if runs:
            runs.count(columns[:, step])
        batch.leave(place)
    return RowTraces(losses, columns)


class _Runs:
    """How many weights have left of each run of m."""

    def __init__(self, weight: Tensor, pattern: tuple[int, int]) -> None:
        self.length, self.most = pattern[1], pattern[1] - pattern[0]
        self.left = torch.zeros(len(weight), weight.shape[1] // self.length, dtype=torch.int64, device=weight.device)

    def count(self, columns: Tensor) -> None:
        self.left.scatter_add_(1, (columns // self.length)[:, None], torch.ones_like(columns)[:, None])

    def reached(self, names: Tensor) -> Tensor:
        return self.left.gather(1, names // self.length) >= self.most
