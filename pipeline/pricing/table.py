"""Sums of products of widths that are rounded up to granules, for many states of a network at once."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import InputError
from pipeline.pricing.operators import size_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.compress.pruning.graph import Axis
    from pipeline.compress.pruning.state import NetworkState
    from pipeline.pricing.operators import Term

_ROUNDING = 1e-9  # sizes with fractions of a class: 24.000000001 is three granules of eight
_Key = tuple[float, tuple[tuple[str, float], ...], int, bool]


@dataclass(frozen=True)
class Row:
    """One product: a term with its sizes rounded up to `granule`; 0 once one of its `blocks` is gone.

    `into` is the place of the sum that it is added to, `factor` what it is multiplied with.
    """

    term: Term
    granule: int
    blocks: frozenset[str]
    factor: float = 1.0
    into: int = 0

    @property
    def groups(self) -> set[str]:
        """The groups that it depends on."""
        edge = (self.term.edge,) if self.term.edge else ()
        return {group for axis in (*self.term.axes, *edge) for group in axis.per_class}

    def value(self, widths: Mapping[str, int], dropped: Collection[str]) -> float:
        """Return the product at these widths of all groups."""
        if not self.blocks.isdisjoint(dropped):
            return 0.0
        edge = self.term.edge
        if edge and not _is_ragged(size_of(edge, widths) / self.term.step):
            return 0.0
        sizes = (ceil(size_of(axis, widths) / self.granule - _ROUNDING) * self.granule for axis in self.term.axes)
        return self.factor * self.term.constant * prod(sizes)


class WidthTable:
    """The groups of a network, its blocks, and the vectors that stand for a state."""

    def __init__(self, whole: Mapping[str, int], blocks: Iterable[str]) -> None:
        """Take the width of every group, and all blocks that may be dropped."""
        self.groups = {group: place for place, group in enumerate(whole)}
        self.blocks = {block: place for place, block in enumerate(blocks)}
        self._whole = np.array(list(whole.values()), np.float64)

    def widths(self, widths: Mapping[str, int]) -> NDArray[np.float64]:
        """Return the width of every group [G]. Raises InputError for a group that is not one of the network's."""
        vector = self._whole.copy()
        try:
            for group, width in widths.items():
                vector[self.groups[group]] = width
        except KeyError as error:
            raise InputError(f"No group {error} in the network. Groups: {', '.join(self.groups)}") from None
        return vector

    def dropped(self, dropped: Iterable[str]) -> NDArray[np.float64]:
        """Return 1 for each block that is gone [B]; those that no node is in cost nothing and are left out."""
        vector = np.zeros(len(self.blocks))
        for block in dropped:
            if block in self.blocks:
                vector[self.blocks[block]] = 1
        return vector


class Products:
    """The rows of a table as arrays. Cost: some microseconds an evaluation for hundreds of rows."""

    def __init__(self, rows: Sequence[Row], table: WidthTable, sums: int = 1) -> None:
        """Lay out the rows; equal products that go into one sum become one."""
        merged: dict[tuple[tuple[_Key, ...], frozenset[str], int], float] = {}
        for row in rows:
            keys = [_key(axis, row.granule) for axis in row.term.axes]
            if row.term.edge:
                keys.append(_key(row.term.edge, row.term.step, edge=True))
            product = tuple(sorted(keys)), row.blocks, row.into
            merged[product] = merged.get(product, 0.0) + row.factor * row.term.constant
        axes = list(dict.fromkeys(axis for axes_of, _, _ in merged for axis in axes_of))
        place = {axis: index for index, axis in enumerate(axes)}
        depth = max((len(axes_of) for axes_of, _, _ in merged), default=0)
        self._fixed = np.array([*(fixed for fixed, _, _, _ in axes), 1.0])  # the last is 1 and fills up short products
        self._granules = np.array([*(granule for _, _, granule, _ in axes), 1.0])
        self._edges = np.flatnonzero([edge for _, _, _, edge in axes])
        self._per_class = np.zeros((len(table.groups), len(axes) + 1))  # [G, A]
        for index, (_, counts, _, _) in enumerate(axes):
            for group, count in counts:
                self._per_class[table.groups[group], index] = count
        self._factors = np.full((depth, len(merged)), len(axes))  # [depth, T]
        self._blocks = np.zeros((len(table.blocks), len(merged)))  # [B, T]
        into = np.zeros((len(merged), sums))  # [T, sums]
        for term, ((axes_of, blocks, goes), constant) in enumerate(merged.items()):
            self._factors[: len(axes_of), term] = [place[axis] for axis in axes_of]
            self._blocks[[table.blocks[block] for block in blocks], term] = 1
            into[term, goes] = constant
        self._into = into

    def sums(self, widths: NDArray[np.float64], dropped: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums [..., sums] for widths [..., G] and dropped blocks [..., B]."""
        granules = (self._fixed + widths @ self._per_class) / self._granules
        full = np.ceil(granules - _ROUNDING)
        sizes = full * self._granules  # [..., A]
        if len(self._edges):
            sizes[..., self._edges] = (full - granules)[..., self._edges] > _ROUNDING
        left = (dropped @ self._blocks == 0).astype(np.float64)
        products = np.broadcast_to(left, (*widths.shape[:-1], left.shape[-1]))  # [..., T], also where there is no term
        for factors in self._factors:
            products = products * sizes[..., factors]
        result: NDArray[np.float64] = products @ self._into
        return result


class StateSums:
    """One sum for a state, and what it becomes when a single group changes: only the products with that group count."""

    def __init__(self, rows: Sequence[Row], table: WidthTable) -> None:
        """Lay out the rows once for all, and once for each group."""
        self._table = table
        self._all = Products(rows, table)
        self._of_group = {
            group: Products([row for row in rows if group in row.groups], table) for group in table.groups
        }
        self._last: tuple[NetworkState, tuple[NDArray[np.float64], NDArray[np.float64], float]] | None = None

    def at(self, state: NetworkState) -> float:
        """Return the sum for a state."""
        return self._of(state)[2]

    def along(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[np.float64]:
        """Return the sum [len(widths)] for a state with this group at each of these widths."""
        now, dropped, total = self._of(state)
        many = np.repeat(now[None], len(widths) + 1, axis=0)
        many[1:, self._table.groups[group]] = widths
        touched = self._of_group[group].sums(many, dropped)[:, 0]
        result: NDArray[np.float64] = total - touched[0] + touched[1:]
        return result

    def _of(self, state: NetworkState) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return a state's vectors and its sum; a search asks for one state many times in a row."""
        if self._last is None or self._last[0] is not state:
            widths, dropped = self._table.widths(state.widths), self._table.dropped(state.dropped)
            self._last = state, (widths, dropped, float(self._all.sums(widths, dropped)[0]))
        return self._last[1]


def _key(axis: Axis, granule: int, *, edge: bool = False) -> _Key:
    return axis.fixed, tuple(sorted(axis.per_class.items())), granule, edge


def _is_ragged(granules: float) -> bool:
    return ceil(granules - _ROUNDING) - granules > _ROUNDING
