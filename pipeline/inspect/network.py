"""Inspects a network before anything is pruned: which channels are removed together, what they cost, what stays.

`inspect_network` captures and traces a network; `inspection_of` counts, from the channel graph and what the modules
are. MACs per group come from the graph's contractions (sums of products), so that they follow widths exactly: a group's
MACs are those that would be gone if all its channels were. One MAC counts for each group that takes part in it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.compress.pruning.cost import macs_model, parameters_model
from pipeline.compress.pruning.graph import layer_of, trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.graph.nodes import layer_path
from pipeline.core.errors import InputError
from pipeline.inspect.network_layers import Sides, forward_order, layers_of
from pipeline.results.inspection import ChannelGroup, Inspection, KeptWhole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pipeline.compress.pruning.graph import ChannelGraph, Group
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.core.artifact import TensorSpec
    from pipeline.results.inspection import Layer

#: Reasons of the channel graph that name an operator and where it stands.
_AT_AN_OPERATOR = re.compile(r"^(?P<operator>\S+) in (?P<place>the network|\S+) (?P<why>.+?)(?P<line> \(.+\))?$")
_NO_RULE = "has no rule"
_AnyConvolution = nn.modules.conv._ConvNd  # noqa: SLF001 - the only common class of all convolutions


@dataclass(frozen=True)
class Structure:
    """What the modules say about a network, beside its channel graph.

    Attributes:
        owners: the layer that owns each tensor, in the order in which the forward pass first uses the tensors.
        kinds: what each layer is: 'Conv2d 3x3', 'Linear', 'parameter'.
        convolution_groups: the number of groups of each grouped convolution.
        parameters: names of the network's parameters, one for each tensor.
        computed: names of tensors that stand for weights which the network computes from its parameters.
    """

    owners: Mapping[str, str]
    kinds: Mapping[str, str]
    convolution_groups: Mapping[str, int]
    parameters: frozenset[str]
    computed: frozenset[str] = frozenset()


def inspect_network(model: nn.Module, inputs: Sequence[TensorSpec], name: str) -> Inspection:
    """Capture a network, trace its channels and count.

    Args:
        model: any module that `torch.export` can capture; it is not changed.
        inputs: shape [batch, ...] and type of each input; the batch is replaced by two.
        name: what the network is called in the result.

    Raises:
        InputError: the network cannot be exported with these inputs.

    Cost: one export; no forward pass on real numbers.
    """
    shapes = " and ".join("x".join(map(str, spec.shape[1:])) for spec in inputs)
    try:
        captured = capture_graph(
            model, tuple(torch.zeros(2, *spec.shape[1:], dtype=getattr(torch, spec.dtype)) for spec in inputs)
        )
    except InputError as error:
        raise InputError(f"{name} with input {shapes} (does it fit the network?): {error}") from error
    return inspection_of(trace_channels(captured), _structure_of(model, captured), name=name, inputs=tuple(inputs))


def _structure_of(model: nn.Module, captured: CapturedGraph) -> Structure:
    """Read the order of use from the graph, and kinds and numbers of groups from the modules."""
    modules = dict(model.named_modules(remove_duplicate=False))
    owners: dict[str, str] = {}
    for node in captured.module.graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                tensor = str(source.target)
                owners.setdefault(tensor, layer_path(node) if tensor in captured.foreign else layer_of(tensor))
    convolutions = {name: module for name, module in modules.items() if isinstance(module, _AnyConvolution)}
    computed = {name for name in captured.foreign if isinstance(captured.stored[name], nn.Parameter)}
    return Structure(
        owners=owners,
        kinds={name: _kind(module) for name, module in modules.items()},
        convolution_groups={name: each.groups for name, each in convolutions.items() if each.groups > 1},
        parameters=frozenset(name for name, _ in model.named_parameters()),
        computed=frozenset(computed),
    )


def _kind(module: nn.Module) -> str:
    name = type(module).__name__.removeprefix("Parametrized").removeprefix("NonDynamicallyQuantizable")
    kernel = getattr(module, "kernel_size", None)
    if isinstance(kernel, tuple) and all(isinstance(size, int) for size in kernel):
        return f"{name} {'x'.join(map(str, kernel))}"
    return name


def inspection_of(
    graph: ChannelGraph, structure: Structure, *, name: str, inputs: tuple[TensorSpec, ...]
) -> Inspection:
    """Count parameters and MACs of a network and of its groups, and sort what is kept whole by its reason.

    Args:
        graph: the network's channel graph with its contractions.
        structure: what the modules say.
        name: what the network is called.
        inputs: shape and type of each input.
    """
    trained = structure.parameters | structure.computed
    owners = {tensor: layer for tensor, layer in structure.owners.items() if tensor in trained}
    sides = Sides(graph, owners, structure.kinds, structure.convolution_groups)
    layers = tuple(sides.layer(layer) for layer in forward_order(graph, owners))
    macs, parameters = macs_model(graph), parameters_model(graph, trained)
    narrowest = {group.name: 0 for group in graph.groups if group.width > 1}
    total = macs.cost({})
    by_name = {layer.name: layer for layer in layers}
    return Inspection(
        name=name,
        inputs=inputs,
        parameters=round(parameters_model(graph, structure.parameters).cost({})),
        macs=round(total),
        prunable_macs=round(total - macs.cost(narrowest)),
        layers=layers,
        groups=tuple(
            ChannelGroup(
                name=group.name,
                width=group.width,
                **_roles(group, graph, structure.owners, by_name),
                parameters=round(parameters.cost({}) - parameters.cost({group.name: 0})),
                macs=round(total - macs.cost({group.name: 0})),
                saved_macs=round(total - macs.cost({group.name: group.width - group.width // 2})),
            )
            for group in graph.groups
        ),
        kept_whole=tuple(_kept_whole(graph, layers, structure)),
    )


def _roles(
    group: Group, graph: ChannelGraph, owners: Mapping[str, str], layers: Mapping[str, Layer]
) -> dict[str, tuple[str, ...]]:
    """Return which layers make a group's channels, which read them, and what else leaves with them.

    A table that a linear layer shares, such as an embedding, makes the channels that the other reads.
    """
    made, read = dict[str, None](), dict[str, None]()
    for member in group.members:
        for name in layers_of(member.tensor, graph, owners):
            reads = member.consumes and (name not in layers or layers[name].reads)
            (read if reads else made)[name] = None
    return {
        "makers": tuple(name for name in made if name in layers),
        "readers": tuple(read),
        "along": tuple(name for name in made if name not in layers),
    }


def _kept_whole(graph: ChannelGraph, layers: Sequence[Layer], structure: Structure) -> Iterator[KeptWhole]:
    """Yield the reasons for which output channels stay, those of one operator and kind together."""
    places: dict[tuple[str | None, str], dict[str, None]] = defaultdict(dict)
    kept: dict[tuple[str | None, str], dict[str, None]] = defaultdict(dict)
    for layer, reason in (*_of_layers(layers), *_of_others(graph, layers, structure)):
        found = _AT_AN_OPERATOR.match(reason)
        key = (found["operator"], found["why"]) if found else (None, reason)
        kept[key][layer] = None
        if found:
            places[key][found["place"] + (found["line"] or "")] = None
    for (operator, why), named in kept.items():
        yield KeptWhole(
            reason=f"{operator} {why}" if operator else why,
            operator=operator,
            has_rule=why != _NO_RULE,
            places=tuple(places[operator, why]),
            layers=tuple(named),
        )


def _of_layers(layers: Iterable[Layer]) -> Iterator[tuple[str, str]]:
    """Yield drawn layers with the reasons for which their output channels stay."""
    for layer in layers:
        yield from ((layer.name, part.reason) for part in layer.makes if part.group is None and part.reason)


def _of_others(graph: ChannelGraph, layers: Sequence[Layer], structure: Structure) -> Iterator[tuple[str, str]]:
    """Yield other owners of tensors, such as norms, with reasons that no layer has.

    The parameters from which a layer's weight is computed are left out: they are that weight.
    """
    told = {reason for _, reason in _of_layers(layers)}
    drawn = {layer.name for layer in layers}
    computed = tuple(f"{structure.owners[tensor]}." for tensor in structure.computed if tensor in structure.owners)
    for frozen in graph.frozen:
        layer = structure.owners.get(frozen.tensor, layer_of(frozen.tensor))
        known = frozen.consumes or layer in drawn or frozen.reason in told or layer.startswith(computed)
        if frozen.tensor in structure.parameters and not known:
            yield layer, frozen.reason
