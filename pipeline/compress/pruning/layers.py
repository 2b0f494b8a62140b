"""Layers of `torch.nn` in place of ATen operators whose weights carry their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn

from pipeline.compress.pruning.graph.nodes import arguments_of, plain_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CONVOLUTIONS = {"conv1d": "Conv1d", "conv2d": "Conv2d", "conv3d": "Conv3d"}
_BATCH_NORMS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class LayerSpec:
    """A layer by its class in `torch.nn`, its arguments, and the stored tensors that it owns.

    `tensors` are attribute names; their qualified names are `path` and the attribute. `input` is the position of the
    input among the operator's arguments.
    """

    path: str
    kind: str
    arguments: tuple[tuple[str, Any], ...]
    tensors: tuple[str, ...]
    input: int = 0

    def module(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Return the layer with these tensors, which are not copied."""
        module: nn.Module = getattr(nn, self.kind)(**dict(self.arguments))
        for name in self.tensors:
            setattr(module, name, tensors[f"{self.path}.{name}"])
        return module


def layer_for(node: fx.Node, tensors: Mapping[str, Tensor]) -> LayerSpec | None:
    """Return the layer that a call is; None if it is another operator or its tensors are not named as a layer's.

    `tensors` are the stored tensors by qualified name, with the sizes that the layer shall have.
    """
    make = _MAKERS.get(plain_name(node))
    arguments = arguments_of(node) if make else {}
    own = {name: arguments[name] for name in _TENSORS if arguments.get(name) is not None}
    if make is None or any(not isinstance(each, fx.Node) or each.op != "get_attr" for each in own.values()):
        return None
    names = {name: str(each.target) for name, each in own.items()}
    if not names or any(full.rpartition(".")[2] != name for name, full in names.items()):
        return None
    paths = {full.rpartition(".")[0] for full in names.values()}
    if len(paths) > 1 or paths == {""}:
        return None
    (path,) = paths
    made = make(arguments, {name: tensors[full] for name, full in names.items()})
    if made is None or any(not isinstance(tensors[names[name]], nn.Parameter) for name in names if "_" not in name):
        return None
    kind, settings = made
    return LayerSpec(path, kind, tuple(settings.items()), tuple(names), 1 if kind == "Embedding" else 0)


Made = tuple[str, dict[str, Any]] | None


def _convolution(kind: str) -> Callable[[Mapping[str, Any], Mapping[str, Tensor]], Made]:
    def make(arguments: Mapping[str, Any], own: Mapping[str, Tensor]) -> Made:
        outer, inner, *kernel = own["weight"].shape
        original = arguments["weight"].meta["val"].shape
        depthwise_or_one = arguments["groups"] == 1 or original[1] == 1
        if not depthwise_or_one:
            return None  # the number of groups depends on what was removed: the call states it
        return kind, {
            "in_channels": inner if arguments["groups"] == 1 else _groups(arguments, own),
            "out_channels": outer,
            "kernel_size": tuple(kernel),
            "stride": _plain(arguments["stride"]),
            "padding": _plain(arguments["padding"]),
            "dilation": _plain(arguments["dilation"]),
            "groups": 1 if arguments["groups"] == 1 else _groups(arguments, own),
            "bias": "bias" in own,
        }

    return make


def _groups(arguments: Mapping[str, Any], own: Mapping[str, Tensor]) -> int:
    """Return the groups of a convolution with one input channel per group: whole groups have left."""
    multiplier = arguments["weight"].meta["val"].shape[0] // arguments["groups"]
    return len(own["weight"]) // int(multiplier)


def _plain(value: Any) -> Any:  # noqa: ANN401 - 'same', or a list of integers
    return value if isinstance(value, str) else tuple(value)


def _linear(_: Mapping[str, Any], own: Mapping[str, Tensor]) -> Made:
    if own["weight"].dim() != 2:  # noqa: PLR2004 - a weight [out, in]
        return None
    outer, inner = own["weight"].shape
    return "Linear", {"in_features": inner, "out_features": outer, "bias": "bias" in own}


def _batch_norm(arguments: Mapping[str, Any], own: Mapping[str, Tensor]) -> Made:
    rank = arguments["input"].meta["val"].dim()
    if "running_mean" not in own or ("weight" in own) != ("bias" in own) or rank not in _BATCH_NORMS:
        return None
    return _BATCH_NORMS[rank], {
        "num_features": len(own["running_mean"]),
        "eps": arguments["eps"],
        "momentum": arguments["momentum"] or None,  # evaluation states 0 for a plain average
        "affine": "weight" in own,
    }


def _layer_norm(arguments: Mapping[str, Any], own: Mapping[str, Tensor]) -> Made:
    if "weight" not in own:
        return None
    return "LayerNorm", {
        "normalized_shape": tuple(own["weight"].shape),
        "eps": arguments["eps"],
        "bias": "bias" in own,
    }


def _embedding(arguments: Mapping[str, Any], own: Mapping[str, Tensor]) -> Made:
    entries, features = own["weight"].shape
    padding = arguments["padding_idx"]
    return "Embedding", {
        "num_embeddings": entries,
        "embedding_dim": features,
        "padding_idx": None if padding == -1 else padding,
    }


_MAKERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Made]] = {
    **{name: _convolution(kind) for name, kind in _CONVOLUTIONS.items()},
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
}
