"""Legs of factorised layers in a network that was written anew, where each is called by itself, as one layer again."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import fx, nn

from pipeline.compress.factorization.merging import merged_layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def rejoin_legs(module: fx.GraphModule, names: Iterable[str]) -> list[str]:
    """Have a network call the legs of each of these layers through one nn.Sequential, in place; return which it does.

    It computes what it did, and its tensors keep their names. Left as they are: legs that are no layers in its graph
    (those of recurrent networks), that are not called once and one right after the other, or that are no legs of one
    layer any more, and layers that it no longer has.
    """
    done = [name for name in names if _rejoin(module, name)]
    if done:
        module.recompile()
    return done


def _rejoin(module: fx.GraphModule, name: str) -> bool:
    legs = _legs(module, name)
    calls = _chain(module.graph, [f"{name}.{number}" for number in range(len(legs))]) if legs else ()
    if legs is None or not calls:
        return False
    module.set_submodule(name, legs, strict=True)
    with module.graph.inserting_after(calls[-1]):
        call = module.graph.call_module(name, calls[0].args)
    call.meta = dict(calls[-1].meta)
    calls[-1].replace_all_uses_with(call)
    for each in reversed(calls):
        module.graph.erase_node(each)
    return True


def _legs(module: nn.Module, name: str) -> nn.Sequential | None:
    """Return what lies below a name as legs of one layer; None where it is anything else."""
    try:
        found = dict(module.get_submodule(name).named_children())
    except AttributeError:
        return None
    if [*found] != [str(number) for number in range(len(found))]:
        return None
    legs = nn.Sequential(*found.values())
    try:
        merged_layer(legs)
    except (ValueError, IndexError):
        return None
    return legs.train(module.training)


def _chain(graph: fx.Graph, targets: Sequence[str]) -> tuple[fx.Node, ...]:
    """Return the calls of these layers where each has one, and the next one alone takes what it gives; else none."""
    found = [[node for node in graph.nodes if node.op == "call_module" and node.target == each] for each in targets]
    if any(len(calls) != 1 for calls in found):
        return ()
    chain = tuple(calls[0] for calls in found)
    follows = (two.args == (one,) and not two.kwargs and [*one.users] == [two] for one, two in pairwise(chain))
    return chain if all(follows) else ()
