"""Reading the nodes of an exported graph: which operator a call is, its arguments, and where the user's code has it."""

from __future__ import annotations

import operator
import re
from keyword import kwlist
from typing import TYPE_CHECKING, Any

from torch._ops import OpOverload

from pipeline.compress.pruning.graph.rules import RULES

if TYPE_CHECKING:
    from torch import fx

    from pipeline.compress.pruning.graph.labels import Rule

#: An attribute that Python's grammar does not take behind a dot: `self.heads.class`.
_KEYWORD = re.compile(rf"(getattr\((?:[^()]|\([^()]*\))*\)|\bself(?:\.\w+)*?)\.({'|'.join(kwlist)})\b")


def spell_keywords(graph: fx.Graph) -> None:
    """Let the graph's code read layers that are called as Python's keywords are: `getattr(self.heads, "class")`."""

    def spelled(line: str) -> str:
        while (changed := _KEYWORD.sub(r'getattr(\1, "\2")', line)) != line:
            line = changed
        return line

    graph.on_generate_code(lambda _: lambda body: [spelled(line) for line in body])


def plain_name(node: fx.Node) -> str:
    """Return an operator's name without namespace, overload and the underscore of in-place ones: 'add'."""
    if isinstance(node.target, OpOverload):
        name = node.target._schema.name.rpartition("::")[2]  # noqa: SLF001 - the documented way to an operator's name
        return name if name.startswith("__") else name.rstrip("_")
    return getattr(node.target, "__name__", str(node.target))


def is_getitem(node: fx.Node) -> bool:
    """Say whether a node picks one of an operator's results."""
    return node.target is operator.getitem


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments by schema name, defaults included."""
    if not isinstance(node.target, OpOverload):
        return {"args": node.args, **node.kwargs}
    schema = node.target._schema.arguments  # noqa: SLF001 - the documented way to an operator's argument names
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return defaults | {argument.name: given for argument, given in zip(schema, node.args, strict=False)} | node.kwargs


def rule_for(node: fx.Node) -> Rule | None:
    """Return the rule of an operator, if there is one."""
    plain = plain_name(node)
    overload = str(node.target).rpartition(".")[2]
    return RULES.get(f"{plain}.{overload}") or RULES.get(plain)


def layer_path(node: fx.Node) -> str:
    """Return the qualified name of the innermost module in whose forward a call stands."""
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if not path.startswith("_")]
    return modules[-1] if modules else ""


def changes_something(node: fx.Node) -> bool:
    """Say whether a node matters although nobody reads it."""
    if node.op in {"placeholder", "output"}:
        return True
    return isinstance(node.target, OpOverload) and any(
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in node.target._schema.arguments  # noqa: SLF001
    )
