"""What a network costs: counted on the network that is there, and predicted for widths that it could have.

A search over widths asks a `CostModel`. Operations, parameters and bytes are sums of products of widths, so one class
serves all three. A model of latency is one more class here with the same two members.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.compress.pruning.graph import Axis
from pipeline.compress.training.inference import forward_outputs
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.compress.pruning.graph import ChannelGraph, Group, Member
    from pipeline.compress.pruning.state import NetworkState

    _Terms = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class NetworkCost:
    """What one image costs."""

    macs: int
    parameters: int


def count_cost(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> NetworkCost:
    """Count the multiply-accumulates of one image and the parameters of a network.

    Counted: convolutions, linear layers, matrix products, attention and recurrent layers, on the operators that really
    run; as many as the dense arithmetic has, padding included. Not counted: biases, norms, activations, pooling.
    A parameter that layers share counts once; buffers do not count.

    Args:
        model: the network; it is not changed.
        example: an input [batch, ...], or one for each input of the network, of which the first image is used.

    Cost: one forward pass of one image.
    """
    first = tuple(tensor[:1] for tensor in example) if isinstance(example, tuple) else example[:1]
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: _recurrent})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:  # the counter hooks gradients, which views of parameters do not have here
        parameter.requires_grad_(False)  # noqa: FBT003 - torch's own positional argument
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:  # as two products: the CPU's fused attention has no count
            forward_outputs(model, first)
    finally:
        for parameter in trained:
            parameter.requires_grad_()
    return NetworkCost(
        macs=counter.get_total_flops() // 2, parameters=sum(tensor.numel() for tensor in model.parameters())
    )


def _recurrent(
    value: Sequence[int], weight_ih: Sequence[int], weight_hh: Sequence[int], *_: object, **__: object
) -> int:
    """Return the floating-point operations of one layer and direction of an LSTM from the shapes of its tensors."""
    return 2 * prod(value[:-1]) * (prod(weight_ih) + prod(weight_hh))


class CostModel(Protocol):
    """The cost of a network as a function of how many channels its groups keep.

    A search for a target assumes that the cost does not rise when a group gets narrower.
    """

    @property
    def name(self) -> str:
        """What is counted, as messages say it: 'multiply-accumulates'."""

    def cost(self, widths: Mapping[str, int]) -> float:
        """Return the cost with these kept widths by group; groups that are not named are whole."""


class ProductsModel:
    """A cost that is a sum of products of sizes; each size is a constant plus a weighted sum of widths.

    Exact for whole numbers below 2**53. Cost: about 0.1 ms an evaluation for hundreds of groups.
    """

    def __init__(self, name: str, groups: Iterable[Group], products: Iterable[tuple[float, Sequence[Axis]]]) -> None:
        """Lay out the products as arrays.

        Args:
            name: what is counted.
            groups: all groups of the network.
            products: for each term of the sum a constant and the sizes that it is multiplied with.
        """
        whole = {group.name: group.width for group in groups}
        terms = [(constant, tuple(axes) or (_ONE,)) for constant, axes in products]
        axes = [axis for _, factors in terms for axis in factors]
        self._name = name
        self._touched: dict[str, _Terms] = {}
        self._index = {group: index for index, group in enumerate(whole)}
        self._whole = np.array(list(whole.values()), np.float64)
        self._constants = np.array([constant for constant, _ in terms], np.float64)
        self._starts = np.cumsum([0, *(len(factors) for _, factors in terms)])[:-1]
        self._fixed = np.array([axis.fixed for axis in axes], np.float64)
        self._axis = np.repeat(np.arange(len(axes)), [len(axis.per_class) for axis in axes])
        self._group = np.array([self._index[group] for axis in axes for group in axis.per_class], np.intp)
        self._per_class = np.array([count for axis in axes for count in axis.per_class.values()], np.float64)

    @property
    def name(self) -> str:
        """What is counted."""
        return self._name

    def cost(self, widths: Mapping[str, int], dropped: Collection[str] = frozenset()) -> float:
        """Return the cost with these kept widths by group; groups that are not named are whole.

        Raises:
            InputError: a group is not one of the network's.
            ValueError: blocks are `dropped`, which these products know nothing of.
        """
        if dropped:
            raise ValueError(f"the {self._name} of a network without blocks are not known")
        return float(self._constants @ np.multiply.reduceat(self._sizes(widths), self._starts))

    def costs(self, state: NetworkState, group: str, widths: Sequence[int]) -> NDArray[np.float64]:
        """Return the cost [len(widths)] of a state with this group at each of these widths; see `cost`."""
        if state.dropped:
            raise ValueError(f"the {self._name} of a network without blocks are not known")
        if group not in self._touched:
            self._touched[group] = self._terms_of(self._index[group])
        axes, starts, constants, per_class = self._touched[group]
        sizes = self._sizes(state.widths)
        whole = float(self._constants @ np.multiply.reduceat(sizes, self._starts))
        if not len(axes):
            return np.full(len(widths), whole)
        now = state.widths.get(group, self._whole[self._index[group]])
        many = sizes[axes] + np.outer(np.array([now, *widths]) - now, per_class)  # [1 + widths, axes]
        costs: NDArray[np.float64] = np.multiply.reduceat(many, starts, axis=1) @ constants
        result: NDArray[np.float64] = whole - costs[0] + costs[1:]
        return result

    def _terms_of(self, group: int) -> _Terms:
        """Return the products that a group is in: axes, where each begins, constants, and sizes per class."""
        own = self._group == group
        per_class = np.bincount(self._axis[own], self._per_class[own], len(self._fixed)).astype(np.float64)
        term = np.searchsorted(self._starts, np.arange(len(self._fixed)), side="right") - 1  # [axes]
        touched = np.unique(term[self._axis[own]])
        axes = np.flatnonzero(np.isin(term, touched))
        return axes, np.searchsorted(term[axes], touched), self._constants[touched], per_class[axes]

    def _sizes(self, widths: Mapping[str, int]) -> NDArray[np.float64]:
        """Return the size of every axis."""
        if unknown := widths.keys() - self._index.keys():
            raise InputError(f"No groups {sorted(unknown)} in the network. Groups: {', '.join(self._index)}")
        kept = self._whole.copy()
        kept[[self._index[group] for group in widths]] = list(widths.values())
        return self._fixed + np.bincount(self._axis, self._per_class * kept[self._group], minlength=len(self._fixed))


def macs_model(graph: ChannelGraph) -> ProductsModel:
    """Return the multiply-accumulates of one image: those of every convolution, linear layer and matrix product."""
    products = [(contraction.constant, contraction.axes) for contraction in graph.contractions]
    return ProductsModel("multiply-accumulates", graph.groups, products)


def parameters_model(graph: ChannelGraph, parameters: Iterable[str]) -> ProductsModel:
    """Return the number of values in these tensors, such as the names of `model.named_parameters()`.

    A tensor that layers share counts once, under whichever of its names it is given.
    """
    return ProductsModel("parameters", graph.groups, _tensors(graph, dict.fromkeys(parameters, 1)))


def size_model(graph: ChannelGraph, value_bytes: Mapping[str, float]) -> ProductsModel:
    """Return the bytes of these tensors.

    Args:
        graph: the network's channels.
        value_bytes: the bytes that one value of each tensor takes in the file: 4 in float32, 1 for an int8 weight.

    Limits: the tensors alone, without the file's graph and names; norms that an exporter folds away still count.
    """
    return ProductsModel("bytes of weights", graph.groups, _tensors(graph, value_bytes))


_ONE = Axis(1, {})


def _tensors(graph: ChannelGraph, weights: Mapping[str, float]) -> Iterator[tuple[float, list[Axis]]]:
    """Yield each stored tensor as a product: a constant for the sizes that stay, and the sizes that change."""
    first = {alias: names[0] for names in graph.aliases.values() for alias in names}
    owned: dict[str, dict[int, list[tuple[Group, Member]]]] = defaultdict(lambda: defaultdict(list))
    for group in graph.groups:
        for member in group.members:
            owned[member.tensor][member.dim].append((group, member))
    for name, weight in {first.get(name, name): weight for name, weight in weights.items()}.items():
        shape = graph.shapes[name]
        constant = weight * prod(size for dim, size in enumerate(shape) if dim not in owned[name])
        yield constant, [_axis(shape[dim], owners) for dim, owners in owned[name].items()]


def _axis(size: int, owners: Sequence[tuple[Group, Member]]) -> Axis:
    per_class: Counter[str] = Counter()
    for group, member in owners:
        per_class[group.name] += member.positions.shape[1]
    return Axis(size - sum(member.positions.size for _, member in owners), per_class)
