"""The second way to apply a plan: a new module whose graph states the sizes that are left.

A network whose own forward holds literal sizes (`x.view(b, n, 3, 12, 64)`, `x[:, :32]`) cannot lose channels in place.
Here its captured graph is written anew with those numbers recomputed from the labels, and with its layers as modules
again: convolutions, linear layers, norms and embeddings keep their names and tensors. What the network's own `train()`
and `eval()` switch (batch norm, dropout), the new module's switch too.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from pipeline.compress.pruning.graph.exported import export_program
from pipeline.compress.pruning.graph.nodes import (
    arguments_of,
    changes_something,
    layer_path,
    plain_name,
    spell_keywords,
)
from pipeline.compress.pruning.graph.sizes import Call, arguments_with, resized_arguments
from pipeline.compress.pruning.layers import LayerSpec, layer_for
from pipeline.compress.pruning.tensors import sliced
from pipeline.compress.pruning.untouched import restored_afterwards
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.graph.walk import Walk
    from pipeline.compress.pruning.surgery import PrunePlan


@dataclass(frozen=True)
class Switches:
    """What training changes: the arguments of calls by the names of their nodes, and noise that evaluation lacks."""

    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


#: The argument of an operator that says whether the network trains.
_TRAINING = {
    **dict.fromkeys(["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"], "train"),
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu"], "train"),
    **dict.fromkeys(["batch_norm", "rrelu"], "training"),
    "instance_norm": "use_input_stats",
    "scaled_dot_product_attention": "dropout_p",
}
_BATCH_NORM = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the only common class of all batch norms
#: A momentum that is not zero.
_ANY = 0.1
#: Operators that draw random numbers.
_NOISE = frozenset(
    "dropout feature_dropout alpha_dropout bernoulli rand rand_like randn randn_like uniform normal".split()
)
#: Batch, heads, tokens, dimensions of a head.
_ATTENTION_DIMENSIONS = 4
#: A view depends on how the operator before lays its result out, which sizes and runtimes change.
_RESHAPES = {
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default,  # noqa: SLF001 - the operator's name
}


def rewrite_module(
    captured: CapturedGraph, walk: Walk, plan: PrunePlan, switches: Switches | None = None
) -> fx.GraphModule:
    """Return a new module that computes what the network does without what `plan` removes.

    The captured network and its tensors are not changed. Parameters keep `requires_grad`. `switches`: what the calls do
    in training, as `training_switches` finds it; without them, what is off in evaluation is on in training.

    Limits: what the graph does not have is lost: stochastic depth, hooks, methods other than forward, outputs in
    containers other than tuples, lists and dictionaries, what training alone computes.
    """
    tensors = {
        str(node.target): _smaller(captured.stored[str(node.target)], plan.keep.get(str(node.target), {}))
        for node in captured.module.graph.nodes
        if node.op == "get_attr"
    }
    writer = _Writer(captured, walk, plan, tensors, switches or Switches())
    return writer.write()


def training_switches(captured: CapturedGraph, model: nn.Module) -> Switches:
    """Return what each dropout, norm or attention of the graph does in training, and which noise the graph has not.

    Calls of both modes belong together when they are the same operator at the same place in the same layer.
    """
    try:
        with restored_afterwards(model):
            for module in model.modules():
                if isinstance(module, _BATCH_NORM) and module.momentum is None:
                    module.momentum = _ANY  # a plain average counts its batches, which no graph does
            program = export_program(model, captured.example, training=True)
    except InputError:
        return Switches(lost=("what only training does, whose graph cannot be captured",))
    there, here = (_switched(graph) for graph in (program.graph, captured.module.graph))
    found = {node.name: arguments_of(there[place]) for place, node in here.items() if place in there}
    new = [(name, layer) for name, layer, _ in there.keys() - here.keys() if name in _NOISE]
    return Switches(found, tuple(sorted(f"{name} in {layer or 'the network'}" for name, layer in new)))


def _switched(graph: fx.Graph) -> dict[tuple[str, str, int], fx.Node]:
    """Return the calls that training changes by operator, layer and number."""
    found: dict[tuple[str, str, int], fx.Node] = {}
    numbers: Counter[tuple[str, str]] = Counter()
    for node in graph.nodes:
        if node.op == "call_function" and plain_name(node) in _TRAINING.keys() | _NOISE:
            place = plain_name(node), layer_path(node)
            found[(*place, numbers[place])] = node
            numbers[place] += 1
    return found


def _smaller(tensor: Tensor, keep: Mapping[int, tuple[int, ...]]) -> Tensor:
    data = sliced(tensor, keep) if keep else tensor.detach().clone()
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


class _Writer:
    def __init__(
        self, captured: CapturedGraph, walk: Walk, plan: PrunePlan, tensors: Mapping[str, Tensor], switches: Switches
    ) -> None:
        self._switches = switches.calls
        self._captured, self._walk, self._tensors = captured, walk, tensors
        self._removed = walk.removed(plan.keep)
        self._graph = fx.Graph()
        spell_keywords(self._graph)
        self._made: dict[fx.Node, Any] = {}
        self._root: dict[str, Any] = {}
        self._layers: dict[str, LayerSpec] = {}
        self._device: fx.Node | None = None
        self._training: fx.Node | None = None

    def write(self) -> fx.GraphModule:
        """Write every node, drop what nobody reads, and collect the module."""
        nodes = list(self._captured.module.graph.nodes)
        for node in nodes:
            if node.op == "placeholder":
                self._made[node] = self._graph.node_copy(node)
        first = next(iter(self._graph.nodes))
        self._training = self._graph.get_attr("training")
        self._device = self._graph.call_function(getattr, (first, "device"))
        for node in nodes:
            if node.op == "get_attr":
                self._root[str(node.target)] = self._tensors[str(node.target)]
                self._made[node] = self._graph.get_attr(str(node.target))
            elif node.op == "call_function":
                self._made[node] = self._call(node)
            elif node.op == "output":
                self._graph.output(fx.node.map_arg(node.args[0], self._made.__getitem__))
        self._graph.eliminate_dead_code(is_impure_node=changes_something)
        used = {str(node.target) for node in self._graph.nodes if node.op in {"get_attr", "call_module"}}
        root = {name: value for name, value in self._root.items() if name in used}
        module = fx.GraphModule({**root, "training": False}, self._graph)
        module.eval()
        return module

    def _call(self, node: fx.Node) -> fx.Node:
        target: Any = node.target
        changes: dict[str, Any] = {}
        if isinstance(target, torch._ops.OpOverload):  # noqa: SLF001 - the only class of ATen operators
            target, changes = resized_arguments(Call(node, self._walk, self._removed))
        changes |= self._switch(node)
        made = self._layer(node) or self._attention(node, changes)
        if made is None:
            args, kwargs = arguments_with(node, target, changes)
            args, kwargs = fx.node.map_arg((args, kwargs), lambda given: self._made.get(given, given))
            args, kwargs = map_aggregate((args, kwargs), self._placed)
            made = self._graph.call_function(_RESHAPES.get(target, target), args, kwargs)
            if plain_name(node) == "scaled_dot_product_attention":  # its layout is the kernel's, which exporters change
                layout: dict[str, Any] = {"memory_format": torch.contiguous_format}
                made = self._graph.call_function(torch.ops.aten.clone.default, (made,), layout)
        made.meta = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
        return made

    def _switch(self, node: fx.Node) -> dict[str, Any]:
        """Return the argument that follows the mode, if there is one: off in evaluation and on in training."""
        switch = _TRAINING.get(plain_name(node))
        if switch is None or arguments_of(node)[switch]:
            return {}
        then = self._switches.get(node.name, {}).get(switch, switch != "dropout_p")
        if not then or not isinstance(then, (bool, float)):
            return {}
        if then is True:
            return {switch: self._training}
        return {switch: self._graph.call_function(operator.mul, (self._training, then))}

    def _placed(self, argument: Any) -> Any:  # noqa: ANN401 - any argument of an operator
        """Return the input's device for the one that was there when the network was captured."""
        return self._device if isinstance(argument, torch.device) else argument

    def _layer(self, node: fx.Node) -> fx.Node | None:
        """Call the layer that a node is, if it is one and its name is not taken by another."""
        layer = layer_for(node, self._tensors)
        if layer is not None and layer.kind.startswith("BatchNorm"):
            layer = self._batch_norm(node, layer)
        if layer is None or self._layers.setdefault(layer.path, layer) != layer:
            return None
        if layer.path not in self._root:
            module = self._root[layer.path] = layer.module(self._tensors)
            if isinstance(counter := getattr(module, "num_batches_tracked", None), Tensor):
                counter.copy_(self._captured.stored.get(f"{layer.path}.num_batches_tracked", counter))
        return self._graph.call_module(layer.path, (self._made[node.args[layer.input]],))  # type: ignore[index]

    def _batch_norm(self, node: fx.Node, layer: LayerSpec) -> LayerSpec | None:
        """Return a batch norm as it trains; None where the mode does not decide whose statistics it takes."""
        if "training" not in self._switch(node):
            return None
        zero = self._switches.get(node.name, {}).get("momentum") == 0.0  # evaluation states 0 for a plain average too
        return replace(layer, arguments=(*layer.arguments, ("momentum", 0.0))) if zero else layer

    def _attention(self, node: fx.Node, changes: dict[str, Any]) -> fx.Node | None:
        """Spell out an attention without the four dimensions that exporters take; None for any other call."""
        if plain_name(node) != "scaled_dot_product_attention" or node.meta["val"].dim() == _ATTENTION_DIMENSIONS:
            return None
        given = arguments_of(node) | changes
        mask = given["attn_mask"]
        if given["is_causal"] or given["enable_gqa"] or (mask is not None and mask.meta["val"].dtype is torch.bool):
            return None
        query, key, value = (self._made[given[name]] for name in ("query", "key", "value"))
        call, aten = self._graph.call_function, torch.ops.aten
        turned = call(aten.transpose.int, (key, -2, -1))
        scores = call(aten.mul.Tensor, (call(aten.matmul.default, (query, turned)), given["scale"]))
        if mask is not None:
            scores = call(aten.add.Tensor, (scores, self._made[mask]))
        return call(aten.matmul.default, (call(aten.softmax.int, (scores, -1)), value))
