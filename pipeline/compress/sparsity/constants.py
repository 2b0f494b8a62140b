"""Which values of a network do not depend on its inputs: a run of its graph that marks what varies.

Beside each tensor of the captured graph goes a mark of the same shape, 1 where a value may vary with the inputs and 0
where it cannot. A weight of zero passes nothing on; operators that are not known make everything vary. Views of a
tensor have views of its marks, so that what is written in place is seen through all of them.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only

from pipeline.compress.pruning.graph import rules
from pipeline.compress.pruning.graph.nodes import arguments_of, changes_something, is_getitem, plain_name, rule_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compress.pruning.graph.capture import CapturedGraph

TRANSPOSED = frozenset("conv_transpose1d conv_transpose2d conv_transpose3d".split())
#: Layers that multiply inputs by weights: `input`, `weight` and `bias` are their first arguments.
LAYERS = frozenset("linear conv1d conv2d conv3d".split()) | TRANSPOSED
#: The result varies where the first argument does. A dropout or norm in training is left out by `_varies`.
_SAME = frozenset(
    (
        "clone contiguous detach alias to _to_copy lift_fresh_copy lift_fresh type_as batch_norm prelu "
        "dropout feature_dropout alpha_dropout feature_alpha_dropout"
    ).split()
)
#: Each result comes from a window of the same channel, with no factor below zero.
_WINDOWS = frozenset(
    (
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
        "upsample_bilinear2d upsample_trilinear3d reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d"
    ).split()
)
_ZERO_PADS = frozenset(["pad", "constant_pad_nd"])
_MEANS = frozenset(["mean", "amax", "amin"])


class ConstantRun(fx.Interpreter):
    """Runs a captured graph on its example; `run` returns the outputs.

    Limits: what is constant is so for inputs of the example's size. A constant that is not zero and gets padding
    counts as varying behind it, since it differs at the edges.
    """

    def __init__(self, captured: CapturedGraph, at_layer: Callable[[fx.Node, Tensor, Tensor], None]) -> None:
        """Take the graph and what is called before each layer with its node, its input and the marks of that.

        It may change the layer's weights, as long as the layer's outputs stay what they are.
        """
        super().__init__(captured.module)
        self.extra_traceback = False
        self._at_layer = at_layer
        self._marks: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - as fx declares it
        """Run one node and mark its result."""
        if n.op == "call_function" and plain_name(n) in LAYERS:
            source: Any = n.args[0]
            self._at_layer(n, self.env[source], self._marks[source])
        value = super().run_node(n)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)) and n.op != "output":
            self._marks[n] = self._varies(n, value)
        for done in self.user_to_last_uses.get(n, ()):
            self._marks.pop(done, None)
        return value

    def _varies(self, n: fx.Node, value: Any) -> Any:  # noqa: ANN401 - a tensor or several
        if n.op != "call_function":
            return torch.full_like(value, float(n.op == "placeholder"), dtype=torch.float32)
        if is_getitem(n):
            return self._marks[n.args[0]][n.args[1]]  # type: ignore[index]
        name, arguments = plain_name(n), arguments_of(n)
        trains = arguments.get("training") or arguments.get("train") or (name not in _SAME and _is_random(n))
        families = (
            (trains, self._all),
            (name in _SAME, self._same),
            (name in LAYERS, self._layer),
            (_is_view(n) or (name in rules.LAYOUT and (name not in _ZERO_PADS or _pads_zero(arguments))), self._moved),
            (rule_for(n) is rules.elementwise, self._joined),
            (name in _WINDOWS, self._windowed),
            (name in _MEANS and isinstance(value, Tensor), self._averaged),
            (True, self._all),
        )
        return next(method for belongs, method in families if belongs)(n, value)

    def _same(self, n: fx.Node, value: Any) -> Any:  # noqa: ANN401 - a tensor or several
        first, *others = n.all_input_nodes
        return self._all(n, value) if any(bool(self._marks[each].any()) for each in others) else self._marks[first]

    def _all(self, n: fx.Node, value: Any) -> Any:  # noqa: ANN401 - a tensor or several
        """Mark the whole result, and what is or may be written in place, unless no input varies."""
        given = [leaf for source in n.all_input_nodes for leaf in tree_leaves(self._marks.get(source, ()))]
        opaque = torch.Tag.maybe_aliasing_or_mutating in getattr(
            n.target, "tags", ()
        )  # what is written later is not seen
        vary = opaque or _is_random(n) or any(bool(mark.any()) for mark in given)
        if opaque or (vary and changes_something(n)):
            for mark in given:
                mark.fill_(1)
        return tree_map_only(Tensor, lambda each: torch.full_like(each, float(vary), dtype=torch.float32), value)

    def _joined(self, n: fx.Node, value: Tensor) -> Tensor:
        """Mark what any of the inputs marks; in place where the operator works so."""
        found = reduce(torch.maximum, [self._marks[source] for source in n.all_input_nodes if source in self._marks])
        first: Any = n.args[0]
        written: Tensor | None = self._marks[first] if changes_something(n) else None
        return _marked(value, found) if written is None else written.copy_(found)

    def _layer(self, n: fx.Node, value: Tensor) -> Tensor:
        """Mark what a weight that is not zero reaches from a mark."""
        sources: list[Any] = list(n.args)
        if any(bool(self._marks[source].any()) for source in n.all_input_nodes if source is not sources[0]):
            return torch.ones_like(value, dtype=torch.float32)
        weight = (self.env[sources[1]] != 0).float()
        rest = map_arg(tuple(sources[3:]), lambda source: self.env[source])
        return _marked(value, n.target(self._edged(n), weight, None, *rest) > 0)  # type: ignore[operator]

    def _averaged(self, n: fx.Node, value: Tensor) -> Tensor:
        """Mark a mean or an extreme over positions of which one varies."""
        arguments, source = arguments_of(n), n.all_input_nodes[0]
        axes = arguments.get("dim") or []
        return _marked(value, self._marks[source].amax(axes, keepdim=arguments.get("keepdim", False)))

    def _windowed(self, n: fx.Node, value: Tensor) -> Tensor:
        """Mark what a mark is in the window of."""
        return _marked(value, self._moved(n, value) > 0)

    def _moved(self, n: fx.Node, _: Any) -> Any:  # noqa: ANN401 - a tensor or several
        """Call the operator on the marks in place of the tensors."""
        first: Any = n.args[0]
        given = {first: self._edged(n)} if isinstance(first, fx.Node) else {}

        def mark(source: fx.Node) -> Any:  # noqa: ANN401 - marks, or a size
            return given.get(source, self._marks.get(source, self.env[source]))

        args, kwargs = map_arg((n.args, dict(n.kwargs)), mark)
        return n.target(*args, **kwargs)  # type: ignore[operator]

    def _edged(self, n: fx.Node) -> Tensor:
        """Return the marks of the first input, with constants marked that padding would make different at the edges."""
        source: Any = n.args[0]
        marks: Tensor = self._marks[source]
        return torch.maximum(marks, (self.env[source] != 0).float()) if pads_edges(n) else marks


def pads_edges(n: fx.Node) -> bool:
    """Say whether an operator gives other numbers at the edges than inside where its input is one number throughout."""
    name, padding = plain_name(n), arguments_of(n).get("padding", 0)
    if name in TRANSPOSED or name in _ZERO_PADS:
        return True
    if name not in LAYERS and not name.startswith("avg_pool"):
        return False
    sizes = [padding] if isinstance(padding, (int, str)) else padding
    return any(size not in {0, "valid"} for size in sizes)


def _pads_zero(arguments: dict[str, Any]) -> bool:
    return arguments.get("mode", "constant") == "constant" and not arguments.get("value")


def _is_view(n: fx.Node) -> bool:
    """Say whether a result always is a part of the first argument's memory."""
    returned = n.target._schema.returns if isinstance(n.target, OpOverload) else ()  # noqa: SLF001 - as in arguments_of
    return any(each.alias_info is not None and not each.alias_info.is_write for each in returned)


def _is_random(n: fx.Node) -> bool:
    """Say whether an operator draws numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())


def _marked(value: Tensor, marks: Tensor) -> Tensor:
    """Return marks laid out in memory as the tensor is."""
    return torch.empty_like(value, dtype=torch.float32).copy_(marks)
