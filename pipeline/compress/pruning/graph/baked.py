"""Computed weights: kernels that a network computes from other weights are stored as they come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from pipeline.compress.pruning.graph.nodes import is_getitem, layer_path, plain_name, rule_for
from pipeline.compress.pruning.wide import double_precision, to_float64

if TYPE_CHECKING:
    from collections.abc import Collection

#: Statistics that a network takes over its own weights.
_STATISTICS = frozenset(
    (
        "batch_norm instance_norm layer_norm var_mean var std std_mean mean norm linalg_vector_norm linalg_norm "
        "_weight_norm _weight_norm_interface weight_norm"
    ).split()
)


def bake(module: fx.GraphModule) -> tuple[frozenset[str], dict[str, Tensor]]:
    """Store weights that are computed from weights by statistics, or by what has no rule, as `<layer>.baked_weight`.

    Returns the names of the tensors that they were computed from, and the weights in float64 by name.
    """
    nodes = list(module.graph.nodes)
    inner: dict[fx.Node, bool] = {}  # computed from stored tensors alone -> a statistic is among the operators
    for node in nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr":
            inner[node] = False
        elif node.op == "call_function" and sources and all(source in inner for source in sources):
            folds = plain_name(node) in _STATISTICS or not (is_getitem(node) or rule_for(node))
            inner[node] = folds or any(inner[source] for source in sources)
    frontier = [
        node
        for node, statistic in inner.items()
        if statistic and isinstance(node.meta.get("val"), Tensor) and any(user not in inner for user in node.users)
    ]
    if not frontier:
        return frozenset(), {}
    values, precise = _evaluate(fx.Interpreter(module), frontier), {}
    with double_precision():
        wide = _evaluate(_WideInterpreter(module), frontier)
    for node in frontier:
        users = [user for user in node.users if user not in inner]
        name = f"{layer_path(users[0])}.baked_weight".lstrip(".")
        while name in dict(module.named_parameters()) or name in dict(module.named_buffers()):
            name += "_"
        value, precise[name] = values[node].detach().clone(), wide[node]
        _assign(module, name, nn.Parameter(value, requires_grad=value.is_floating_point()))
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta = {key: node.meta[key] for key in ("val", "nn_module_stack") if key in node.meta}
        for user in users:
            user.replace_input_with(node, constant)
    return frozenset(str(node.target) for node in nodes if node.op == "get_attr"), precise


class _WideInterpreter(fx.Interpreter):
    def fetch_attr(self, target: str) -> Any:  # noqa: ANN401 - as fx declares it
        return to_float64(super().fetch_attr(target))


def _evaluate(interpreter: fx.Interpreter, nodes: Collection[fx.Node]) -> dict[fx.Node, Tensor]:
    """Return the values of nodes that depend on stored tensors alone."""
    needed = set(nodes)
    for node in reversed(list(interpreter.graph.nodes)):
        if node in needed:
            needed |= set(node.all_input_nodes)
    with torch.no_grad():
        for node in interpreter.graph.nodes:
            if node in needed:
                interpreter.env[node] = interpreter.run_node(node)
    return {node: interpreter.env[node] for node in nodes}


def _assign(module: nn.Module, name: str, value: nn.Parameter) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    module.register_parameter(last, value)
