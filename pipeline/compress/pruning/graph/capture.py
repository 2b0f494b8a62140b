"""Capture: a network as a graph of ATen operators that still reads and trains the network's own parameters.

Source: `torch.export` (non-strict, evaluation mode, symbolic batch). Weights that the network computes from other
weights by statistics over them (weight standardisation, weight norm) are computed once and stored: "baked". After that
a kernel is a stored tensor, whose channels can be removed without changing the kernels that stay.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.graph.baked import bake
from pipeline.compress.pruning.graph.exported import Example, any_batch, export_program
from pipeline.compress.pruning.graph.nodes import (
    changes_something,
    is_getitem,
    plain_name,
    spell_keywords,
)
from pipeline.compress.pruning.tensors import shared_names, stored_tensors
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch.export import ExportedProgram


#: Attributes of every graph module.
_TAKEN = frozenset({"meta", "training", *dir(fx.GraphModule)} - set(dir(nn.Module)))
#: Containers of outputs that a graph keeps; fx has immutable ones of its own.
_DICTIONARIES = frozenset({dict, OrderedDict, immutable_dict})
_SEQUENCES: dict[Any, type] = {tuple: tuple, list: list, immutable_list: list}


@dataclass(frozen=True)
class CapturedGraph:
    """The graph of a network in evaluation mode.

    Attributes:
        module: callable as the network is. Its get_attr nodes name stored tensors as the network does; parameters are
            the network's own objects, so training one trains the other.
        example: the inputs that it was captured with.
        dynamic: the batch may have any size; otherwise the network's code fixes that of the example.
        stored: all tensors by name: the network's under the first of their names, those that it does not use in
            evaluation included, its constants, and the baked ones.
        aliases: all names of a tensor that several layers share, by the first.
        foreign: names that are not the network's: its constants, and "*.baked_weight" in place of computed weights.
        folded: tensors that only baked weights were computed from.
        precise: baked weights as they are when they are computed in float64.
        training: the graph in training mode, where that reads parameters that evaluation does not.
    """

    module: fx.GraphModule
    example: Example
    dynamic: bool
    stored: Mapping[str, Tensor]
    aliases: Mapping[str, tuple[str, ...]]
    foreign: frozenset[str]
    folded: frozenset[str]
    precise: Mapping[str, Tensor] = field(default_factory=dict)
    training: CapturedGraph | None = None


def capture_graph(model: nn.Module, example: Example) -> CapturedGraph:
    """Export the network in evaluation mode; the batch is symbolic wherever its code allows.

    Args:
        model: any module that `torch.export` takes; it is not changed.
        example: one tensor [batch, ...] per input, with a batch of two or more. Integers must be valid indices.

    Raises:
        InputError: the network cannot be exported; the message names the line of its code.

    Cost: about a forward pass in Python with tensors that hold no data, and two deep copies of the computed weights;
    twice that where evaluation does not use all parameters.
    Limits: what only training does with the parameters of evaluation, such as stochastic depth, is not in the graph.
    """
    if smallest := [len(tensor) for tensor in example if tensor.dim() and len(tensor) < 2]:  # noqa: PLR2004 - a constant
        raise InputError(f"The example has a batch of {min(smallest)}; expected 2 or more.")
    own = stored_tensors(model)
    if taken := {name.partition(".")[0] for name in own} & _TAKEN | {name for name in own if set('"\\\n') & set(name)}:
        raise InputError(
            f"The network calls a tensor or layer {', '.join(sorted(taken))}: rename it, graphs cannot have that name."
        )
    captured = _captured(export_program(model, example), example, own)
    unused = _unused(captured, own)
    if not unused:
        return captured
    try:
        trained = _captured(export_program(model, example, training=True), example, own, "_in_training")
    except InputError:  # what training alone uses stays whole
        return captured
    if unused <= _unused(trained, own):
        return captured
    return replace(
        captured,
        stored={**trained.stored, **captured.stored},
        foreign=captured.foreign | trained.foreign,
        precise={**trained.precise, **captured.precise},
        training=trained,
    )


def _unused(captured: CapturedGraph, own: Mapping[str, Tensor]) -> set[str]:
    """Return the parameters that evaluation does not use under any of their names."""
    read = {str(node.target) for node in captured.module.graph.nodes if node.op == "get_attr"}
    parameters = {name for name, tensor in own.items() if isinstance(tensor, nn.Parameter) and tensor.dim()}
    return (parameters & captured.stored.keys()) - read - captured.folded


def _captured(program: ExportedProgram, example: Example, own: Mapping[str, Tensor], suffix: str = "") -> CapturedGraph:
    """Return a program's graph on the network's own tensors. `suffix` tells its constants from those of another."""
    aliases = shared_names(own)
    module = _graph_module(program, own, {name: alias[0] for alias in aliases for name in alias}, suffix)
    folded, precise = bake(module)
    module.graph.eliminate_dead_code(is_impure_node=changes_something)
    module.recompile()
    used = {node.target: _attribute(module, node.target) for node in module.graph.nodes if node.op == "get_attr"}
    return CapturedGraph(
        module=module,
        example=example,
        dynamic=any_batch(program),
        stored={**{names[0]: own[names[0]] for names in aliases}, **used},
        aliases={names[0]: names for names in aliases if len(names) > 1},
        foreign=frozenset(used) - own.keys(),
        folded=folded - used.keys(),
        precise=precise,
    )


def record_values(captured: CapturedGraph, nodes: Collection[str], inputs: Example) -> dict[str, Tensor]:
    """Run the graph and return the values of these nodes by name, and under "output" the network's first output.

    Gradients flow where gradient mode is on. Raises KeyError for a node that the graph does not have.
    """
    values, outputs = record_outputs(captured, nodes, inputs)
    return {**values, "output": next(leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))}


def record_outputs(captured: CapturedGraph, nodes: Collection[str], inputs: Example) -> tuple[dict[str, Tensor], Any]:
    """Run the graph and return the values of these nodes by name, and what the network's forward returns.

    Gradients flow where gradient mode is on. Raises KeyError for a node that the graph does not have.
    """
    wanted = set(nodes)
    if missing := wanted - {node.name for node in captured.module.graph.nodes}:
        raise KeyError(f"the graph has no nodes {sorted(missing)}")
    recorder = _Recorder(captured.module, wanted)
    output = recorder.run(*inputs, enable_io_processing=False)
    return recorder.values, captured.module.graph.process_outputs(output)


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.wanted, self.values = wanted, dict[str, Tensor]()
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as fx declares it
        value = super().run_node(n)
        if n.name in self.wanted:
            self.values[n.name] = value
        return value


def _graph_module(
    program: ExportedProgram, tensors: Mapping[str, Tensor], names: Mapping[str, str], suffix: str
) -> fx.GraphModule:
    """Return the program's graph with its lifted tensors read as attributes; aliases read their first name."""
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    graph, root = fx.Graph(), dict[str, Any]()
    spell_keywords(graph)
    made: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if node.op == "output":
            graph.output(_outputs(program, made))
        elif spec is None or spec.kind is InputKind.USER_INPUT:
            made[node] = _copied(node, graph, made, program.graph_module)
        else:
            source = spec.target or node.name
            name = names.get(source, f"{source}{suffix}")
            root[name] = tensors[name] if name in tensors else program.constants[source]
            made[node] = graph.get_attr(name)
            made[node].meta = dict(node.meta)
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in [node for node in graph.nodes if node.op == "get_attr" and node.users]:
        min(node.users, key=order.__getitem__).prepend(node)  # read late, so that an interpreter holds few at a time
    return fx.GraphModule(root, graph)


def _copied(node: fx.Node, graph: fx.Graph, made: dict[fx.Node, Any], owner: nn.Module) -> Any:  # noqa: ANN401
    """Copy a call. A block under a context manager (no gradients, no autocast) is put in its place, node by node."""
    if node.op == "get_attr":
        return getattr(owner, str(node.target))
    if is_getitem(node) and isinstance(results := made[node.all_input_nodes[0]], (tuple, list)):
        return results[node.args[1]]  # type: ignore[index]
    given = [made[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
    inner = next((arg for arg in given if isinstance(arg, fx.GraphModule)), None)
    if inner is None:
        return graph.node_copy(node, made.__getitem__)
    if plain_name(node) == "wrap_with_autocast" and given[2]:
        raise InputError("The forward switches autocast on. Expected a network in one precision: remove the block.")
    inside: dict[fx.Node, Any] = {}
    arguments = iter(given[given.index(inner) + 1 :])
    for step in inner.graph.nodes:
        if step.op == "placeholder":
            inside[step] = next(arguments)
        elif step.op == "output":
            return fx.node.map_arg(step.args[0], inside.__getitem__)
        else:
            inside[step] = _copied(step, graph, inside, inner)
    raise InputError("A block of the exported graph has no result.")


def _outputs(program: ExportedProgram, made: Mapping[fx.Node, Any]) -> Any:  # noqa: ANN401 - any structure of nodes
    """Return what the network returns, as dictionaries, tuples and lists of nodes; other containers become tuples."""
    last = next(node for node in program.graph.nodes if node.op == "output")
    results = [
        spec.arg.value if isinstance(spec.arg, ConstantArgument) else made.get(given, given)
        for spec, given in zip(program.graph_signature.output_specs, last.args[0], strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    structure = program.call_spec.out_spec
    if structure is not None and all(_builtin(kind) for kind in _containers(structure)):
        return _nested(structure, iter(results))
    results = [result for result in results if result is not None]
    return results[0] if len(results) == 1 else tuple(results)


def _containers(structure: Any) -> Iterator[Any]:  # noqa: ANN401 - torch.utils._pytree.TreeSpec
    yield structure.type
    for child in structure.children():
        yield from _containers(child)


def _builtin(kind: Any) -> bool:  # noqa: ANN401 - a class, or None for a leaf
    return kind is None or kind in _DICTIONARIES or kind in _SEQUENCES


def _nested(structure: Any, leaves: Iterator[Any]) -> Any:  # noqa: ANN401 - any structure of nodes
    if structure.type is None:
        return next(leaves)
    children = [_nested(child, leaves) for child in structure.children()]
    if structure.type in _DICTIONARIES:
        return dict(zip(structure.context, children, strict=True))
    return _SEQUENCES[structure.type](children)


def _attribute(module: nn.Module, name: str) -> Any:  # noqa: ANN401 - a tensor
    for part in name.split("."):
        module = getattr(module, part)
    return module
