"""Labels: one identity for every position of every tensor dimension, and which positions must be removed together.

An *atom* is one position of one dimension of a stored tensor. The *label* of a dimension is the array of the atoms at
its positions; atom 0 is a position that nothing may remove, and the label None a dimension without any atoms (batch,
pixels, constants). The label of a dimension that merges the batch with others has the positions of one image. Joined
atoms form a *class*: the smallest set of positions that can be removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.compress.names import StatisticsRule

Label = NDArray[np.int64] | None
Labels = tuple[Label, ...]

#: Stands for a size that is known only when the network runs (the batch). A prime: it divides no real size.
SYMBOLIC = 2**61 - 1

#: Dimensions wider than this that are filled with one value are pixels or tokens, not channels.
_LARGEST_FILL = 65536

_FREE = np.iinfo(np.int64).max
_SILENT = _FREE - 1


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: sizes, the label of each dimension, and whether it is a stored tensor, rearranged."""

    shape: tuple[int, ...]
    labels: Labels
    stored: bool = False


class Atoms:
    """Disjoint sets over the atoms 1, 2, ...; a set can be frozen and remembers the earliest reason."""

    def __init__(self, count: int) -> None:
        """Start with `count` atoms, every one free and on its own."""
        self._parent = np.arange(count + 1)
        self._reason = np.full(count + 1, _FREE)
        self._reason[0] = _SILENT
        self._consumed = np.zeros(count + 1, np.bool_)
        self._texts: list[str] = []

    def fresh(self, count: int) -> NDArray[np.int64]:
        """Return new atoms, which no stored tensor owns."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        self._reason = np.concatenate([self._reason, np.full(count, _FREE)])
        self._consumed = np.concatenate([self._consumed, np.zeros(count, np.bool_)])
        return np.arange(start, start + count)

    def roots(self, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the representative of each atom's class."""
        roots = self._parent[label]
        while not np.array_equal(above := self._parent[roots], roots):
            roots = above
        self._parent[label] = roots
        return roots

    def join(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        """Put the atoms of each position of two equally long labels into one class. Atom 0 is not allowed."""
        left, right = before = self.roots(first), self.roots(second)
        if np.array_equal(left, right):
            return
        reasons = self._reason[np.stack(before)]
        while (apart := left != right).any():
            high, low = np.maximum(left, right)[apart], np.minimum(left, right)[apart]
            np.minimum.at(self._parent, high, low)
            left, right = self.roots(left), self.roots(right)
        np.minimum.at(self._reason, np.stack([left, right]), reasons)

    def freeze(self, label: NDArray[np.int64], reason: str) -> None:
        """Forbid the removal of these classes. An empty reason is one that nobody needs to read."""
        if reason:
            self._texts.append(reason)
        roots = self.roots(label)
        self._reason[roots] = np.minimum(self._reason[roots], len(self._texts) - 1 if reason else _SILENT)

    def frozen(self, label: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say of each position whether its class is frozen."""
        result: NDArray[np.bool_] = self._reason[self.roots(label)] < _FREE
        return result

    def reason(self, label: NDArray[np.int64]) -> str:
        """Return the earliest reason among the frozen classes of a label; empty if there is none to tell."""
        earliest = int(self._reason[self.roots(label)].min())
        return self._texts[earliest] if earliest < _SILENT else ""

    def none(self) -> NDArray[np.bool_]:
        """Return False for every atom, and for atom 0, which is at the positions that nothing may remove."""
        return np.zeros(len(self._parent), np.bool_)

    def consume(self, label: NDArray[np.int64]) -> None:
        """Mark atoms of a stored tensor that are summed away: the input side of a layer."""
        self._consumed[label] = True

    def consumed(self, label: NDArray[np.int64]) -> bool:
        """Say whether any of these atoms is on the input side of a layer."""
        return bool(self._consumed[label].any())


@dataclass(frozen=True)
class Options:
    """How the rules decide where there is a choice.

    `statistics`: whether channels may leave although a mean, a norm or a softmax is taken over them, which then goes
    over those that stay. `heads`: attention heads leave whole, instead of the same dimensions of every head.
    """

    statistics: StatisticsRule
    heads: bool


@dataclass
class Notes:
    """What a rule finds out about a call beside its labels.

    `restricted`: an operator goes over the channels that stay, and the result would differ with zeros in the others.
    `products`: multiply-accumulates of the call, as lists of (size, label) whose sizes are multiplied.
    """

    restricted: bool = False
    products: list[list[tuple[int, Label]]] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """One call of an operator: its arguments by schema name, the sizes of its results, and where it stands.

    `line` is the line of the user's code; `attention`: the result goes into the products of an attention;
    `cuts_heads`: a dimension that is cut here becomes its heads; `bins`: an expectation over fixed numbers follows.
    """

    atoms: Atoms
    options: Options
    operator: str
    layer: str
    line: str
    attention: bool
    cuts_heads: bool
    bins: bool
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    notes: Notes

    def value(self, *names: str) -> Value:
        """Return the first tensor argument that has one of these names."""
        return self.values(*names)[0]

    def values(self, *names: str) -> list[Value]:
        """Return the tensors among these arguments, or among all of them; lists are flattened."""
        chosen = [self.arguments.get(name) for name in names or self.arguments]
        return [leaf for leaf in tree_leaves(chosen) if isinstance(leaf, Value)]

    def axes(self, rank: int) -> list[int]:
        """Return the argument `dim` or `dims` as non-negative axes; absent or empty means all of them."""
        given = self.arguments.get("dim", self.arguments.get("dims"))
        listed = [given] if isinstance(given, int) else given
        return [axis % rank for axis in listed] if listed else list(range(rank))

    def freeze(self, label: Label, why: str) -> None:
        """Forbid the removal of a label's positions. `why` completes 'aten.mean in head ...'; empty: nobody asks."""
        if label is not None:
            reason = f"{self.operator} in {self.layer or 'the network'} {why}" if why else ""
            self.atoms.freeze(label[label > 0], reason)

    def join(self, *labels: Label) -> Label:
        """Put equal positions into one class and return its label. What meets a fixed position becomes fixed."""
        known = [label for label in labels if label is not None]
        if not known:
            return None
        first = known[0]
        for other in known[1:]:
            both = (first > 0) & (other > 0)
            self.atoms.join(first[both], other[both])
            if not both.all():
                self.freeze(np.where(both, 0, first + other), "meets a fixed position")
        if len(known) < len(labels):
            self.freeze(first, "meets a fixed tensor")
        return first

    def tie(self, label: Label, shape: tuple[int, ...], axis: int) -> None:
        """Join the positions along one axis of a label that is viewed with this shape."""
        if label is not None:
            first, *others = np.moveaxis(label.reshape(shape), axis, 0)
            for other in others:
                self.join(first.ravel(), other.ravel())

    def statistic(self, label: Label, why: str) -> None:
        """Let an operator go over the channels that stay, or freeze them, as the options say."""
        if label is None or self.atoms.frozen(label).all():
            return
        if self.options.statistics == "freeze":
            self.freeze(label, why)
        self.notes.restricted = True

    def contract(self, label: Label, weight: Label, *, stored: bool) -> None:
        """Join both sides of a sum of products. Zeros stand in removed positions if `weight` is of a stored tensor."""
        joined = self.join(label, weight)
        if stored and weight is not None:
            self.atoms.consume(weight)
        elif joined is not None:
            self.notes.restricted = True

    def fresh(self, size: int) -> Label:
        """Return a label of new atoms for a dimension whose positions are all alike; None where none can leave."""
        return self.atoms.fresh(size) if 1 < size <= _LARGEST_FILL else None


#: Returns the labels of each result of an operator.
Rule = Callable[[Site], list[Labels]]


def broadcast(site: Site, values: Sequence[Value], shape: tuple[int, ...]) -> Labels:
    """Join equal positions of tensors that are broadcast to `shape`; a size of 1 binds nothing."""
    labels = []
    for axis in range(-len(shape), 0):
        meeting = [value for value in values if len(value.shape) >= -axis and value.shape[axis] == shape[axis] != 1]
        labels.append(site.join(*(value.labels[axis] for value in meeting)))
    return tuple(labels)


def unknown(site: Site) -> list[Labels]:
    """Freeze everything: the sound answer for an operator without a rule."""
    for label in (label for value in site.values() for label in value.labels):
        site.freeze(label, f"has no rule{f' ({site.line})' if site.line else ''}")
    return [(None,) * len(shape) for shape in site.shapes]
