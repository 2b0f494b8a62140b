"""A rewritten network as a Python file that needs torch alone: `build()` returns it, tensors come from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, fx, nn

from pipeline.core.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The constructor arguments of the layers that a rewritten network has.
_ARGUMENTS: dict[type[nn.Module], str] = {
    **dict.fromkeys(
        (nn.Conv1d, nn.Conv2d, nn.Conv3d),
        "in_channels out_channels kernel_size stride padding dilation groups bias",
    ),
    nn.Linear: "in_features out_features bias",
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), "num_features eps momentum affine"),
    nn.LayerNorm: "normalized_shape eps bias",
    nn.Embedding: "num_embeddings embedding_dim padding_idx",
    nn.Sequential: "",  # what is in it comes after it
}

_HEAD = '''"""{title}

Written by secateur: the graph of the original network with the sizes that pruning left. The tensors are loaded from
safetensors; here they are zero.
"""

import operator  # noqa: F401 (the graph may need it)
from math import inf, nan  # noqa: F401

import torch
from torch import device, nn  # noqa: F401


def place(root, path, item):
    """Set a layer, parameter or buffer by its qualified name."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    if isinstance(item, torch.Tensor) and not isinstance(item, nn.Parameter):
        root.register_buffer(name, item)
    else:
        setattr(root, name, item)


class Network(nn.Module):
    """The network."""

    def __init__(self):
        super().__init__()
'''

_TAIL = '''

def build():
    """Return the network in evaluation mode."""
    return Network().eval()
'''

#: Names that generated code may use; the head of the file imports them.
_KNOWN = frozenset({"torch", "operator", "inf", "nan", "device", "getattr"})


def definition_source(module: fx.GraphModule, title: str) -> str:
    """Return the text of a Python file whose `build()` makes `module` with zeros in its tensors.

    Raises:
        StageError: the graph calls something that a plain file cannot name.
    """
    code = module.graph.python_code("self")
    unknown = {name for name in code.globals if name not in _KNOWN and name not in {"fx_pytree", "pytree", "NoneType"}}
    if unknown:
        raise StageError(f"The rewritten network uses {', '.join(sorted(unknown))}, which no plain file can import.")
    places = "".join(f"        place(self, {path!r}, {item})\n" for path, item in _items(module))
    forward = "\n".join(f"    {line}".rstrip() for line in code.src.strip().splitlines())
    return _HEAD.format(title=title) + places + "\n" + forward + "\n" + _TAIL


def _items(module: nn.Module) -> Iterator[tuple[str, str]]:
    layers = {path: layer for path, layer in module.named_modules() if type(layer) in _ARGUMENTS}
    for path, layer in layers.items():
        yield path, _layer(layer)
    owned = {f"{path}.{name}" for path, layer in layers.items() for name in _own(layer)}
    for name, parameter in module.named_parameters():
        if name not in owned:
            yield name, f"nn.Parameter({_zeros(parameter)}, requires_grad={parameter.requires_grad})"
    for name, buffer in module.named_buffers():
        if name not in owned:
            yield name, _zeros(buffer)


def _own(layer: nn.Module) -> set[str]:
    """Return the tensors that the layer's class makes; others may have been set beside them."""
    return {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"} & {
        name for name, _ in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    }


def _layer(layer: nn.Module) -> str:
    given = {name: getattr(layer, name) for name in _ARGUMENTS[type(layer)].split()}
    if "bias" in given:
        given["bias"] = given["bias"] is not None
    return f"nn.{type(layer).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _zeros(tensor: Tensor) -> str:
    return f"torch.zeros({tuple(tensor.shape)}, dtype={tensor.dtype})"
