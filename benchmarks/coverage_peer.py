"""Torch-Pruning on one network: does it run, is the result sound, and how much of the arithmetic goes.

The call is the documented one without help for single networks: group magnitude importance, half of the channels,
layers that give the network's output ignored. The masked check: every parameter carries the index of each of its
entries, as the bits of its gradient, which Torch-Pruning slices along with it, so what was removed is known afterwards.
The original with these entries zeroed, its norms taken over the kept channels, must give the same output in float64.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
import torch_pruning
from coverage_cost import macs
from coverage_models import build
from coverage_worker import leaves
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coverage_models import Entry
    from coverage_worker import Record

RATIO = 0.5
#: Largest difference, relative to the output's scale, that rounding explains in float64.
TOLERANCE = 1e-9
#: Dimensions of a batch of images; their channels come second.
IMAGE = 4
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def run(entry: Entry, record: Record) -> None:
    """Prune one network and check the result."""
    with record.phase("build"):
        model, example = build(entry)
    before = macs(model, example)
    original = deepcopy(model)
    ignored = output_layers(model, example)
    for tensor in model.parameters():
        tensor.grad = torch.arange(tensor.numel(), dtype=torch.int32).view(torch.float32).reshape(tensor.shape)
    with record.phase("prune"):
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example if len(example) > 1 else example[0],
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=RATIO,
            ignored_layers=ignored,
        )
        pruner.step()
    with record.phase("forward"):
        record.add(macs={"before": before, "after": macs(model, example)})
    with record.phase("check"):
        record.add(**check(original, model, example))


def output_layers(model: nn.Module, example: tuple[Tensor, ...]) -> list[nn.Module]:
    """Return the layers as wide as the classes, and those whose result is an output of the network."""
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    makers: dict[int, nn.Module] = {}
    results = []  # as long as they live, no other tensor has their identity

    def note(module: nn.Module, _given: object, result: Tensor) -> None:
        makers[id(result)] = module
        results.append(result)

    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        outputs = leaves(model(*example))
    for hook in hooks:
        hook.remove()
    widths = {tensor.shape[1] if tensor.dim() == IMAGE else tensor.shape[-1] for tensor in outputs}
    wide = [layer for layer in layers if layer.weight.shape[0] in widths]
    return [*wide, *(makers[id(tensor)] for tensor in outputs if id(tensor) in makers)]


def check(original: nn.Module, pruned: nn.Module, example: tuple[Tensor, ...]) -> dict[str, Any]:
    """Compare the pruned network with the original whose removed entries are zero; `error` is relative to scale.

    Both networks are changed.
    """
    kept = kept_entries(original, pruned)
    for model in (original, pruned):
        model.double()
    example = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in example)
    with torch.no_grad():
        expected, found = leaves(original(*example)), leaves(pruned(*example))
        if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
            return {"verdict": "output shape changed"}
        if kept is None:
            return {"verdict": "unchecked", "reason": "a parameter without its indices"}
        for name, tensor in original.named_parameters():
            tensor.mul_(kept[name])
        with KeptNorms({id(tensor): kept[name] for name, tensor in original.named_parameters()}) as norms:
            masked = leaves(original(*example))
    if norms.unknown:
        return {"verdict": "unchecked", "reason": norms.unknown}
    scale = max(float(tensor.abs().max()) for tensor in masked)
    error = max(float((one - other).abs().max()) for one, other in zip(masked, found, strict=True)) / scale
    return {"verdict": "exact" if error <= TOLERANCE else "outputs differ", "error": error}


def kept_entries(original: nn.Module, pruned: nn.Module) -> dict[str, Tensor] | None:
    """Return 1 for every entry of every parameter that is left and 0 for the others; None when that is not known."""
    left = dict(pruned.named_parameters())
    kept = {}
    for name, tensor in original.named_parameters():
        indices = left[name].grad if name in left else None
        if indices is None or indices.shape != left[name].shape:
            return None
        mask = torch.zeros(tensor.numel(), dtype=torch.float64)
        mask[indices.contiguous().view(torch.int32).flatten().long()] = 1
        kept[name] = mask.reshape(tensor.shape)
    return kept


class KeptNorms(TorchFunctionMode):
    """Within the block, layer and group norms take their statistics over the channels that are kept.

    `unknown` says which norm could not be followed, if any: one without weights of its own, or over several
    dimensions.
    """

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.unknown = ""
        self._kept = kept

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        """Replace the norms."""
        given = kwargs or {}
        if func is functional.layer_norm:
            return self._layer_norm(*args, **given)
        if func is functional.group_norm:
            return self._group_norm(*args, **given)
        if func is functional.rms_norm:
            return self._layer_norm(*args, **given, centred=False)
        if func is functional.batch_norm and (given.get("training") or (len(args) > 5 and args[5])):  # noqa: PLR2004 (its place)
            self.unknown = "a batch norm on the batch's own statistics"
        return func(*args, **given)

    def _mask(self, weight: Tensor | None, what: str) -> Tensor | None:
        mask = None if weight is None else self._kept.get(id(weight))
        if mask is None or mask.dim() > 1:
            self.unknown = self.unknown or f"a {what} norm whose channels are not known"
            return None
        return mask

    def _layer_norm(
        self,
        input: Tensor,  # noqa: A002 (torch's name)
        normalized_shape: list[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float | None = 1e-5,
        *,
        centred: bool = True,
    ) -> Tensor:
        mask = self._mask(weight, "layer")
        if mask is None or weight is None or len(normalized_shape) > 1:
            self.unknown = self.unknown or "a layer norm over several dimensions"
            return functional.layer_norm(input, normalized_shape, weight, bias, eps or 1e-5)
        small = torch.finfo(input.dtype).eps if eps is None else eps
        result = _normalised(input, mask, -1, small, centred=centred) * weight
        return result if bias is None else result + bias

    def _group_norm(
        self,
        input: Tensor,  # noqa: A002 (torch's name)
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        mask = self._mask(weight, "group")
        if mask is None or weight is None or bias is None:
            return functional.group_norm(input, num_groups, weight, bias, eps)
        channels = (len(input), num_groups, -1)
        wide = mask[(None, slice(None), *(None,) * (input.dim() - 2))].expand_as(input)
        result = _normalised(input.reshape(channels), wide.reshape(channels), -1, eps).reshape(input.shape)
        shape = (-1, *(1,) * (input.dim() - 2))
        return result * weight.reshape(shape) + bias.reshape(shape)


def _normalised(values: Tensor, mask: Tensor, dim: int, eps: float, *, centred: bool = True) -> Tensor:
    """Return (values - mean) / std along `dim`, both taken where the mask is 1."""
    count = (mask.expand_as(values)).sum(dim, keepdim=True).clamp(min=1)
    if centred:
        values = values - (values * mask).sum(dim, keepdim=True) / count
    variance = (values.square() * mask).sum(dim, keepdim=True) / count
    return values / (variance + eps).sqrt()
