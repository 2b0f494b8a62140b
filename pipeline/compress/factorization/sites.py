"""Which layers of a network others can stand in for, what each costs, and why the rest cannot."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from pipeline.compress.factorization.legs import layer_cost, layer_matrix, possible_kinds
from pipeline.compress.pruning.tensors import copied_network
from pipeline.compress.training.inference import forward_hooks, inference_mode, seeded_random

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pipeline.compress.factorization.legs import LegCost
    from pipeline.compress.factorization.names import FactorKind

    Example = tuple[Tensor, ...]

#: Relative to the largest output: what counts as the same.
_TOLERANCE = 1e-4
#: Names of the tensors of a layer as its class makes them; others come from weight or spectral norm, or from users.
_OWN = {"weight", "bias"}
#: Why a layer that has no calls is no site.
NOT_CALLED = "the network does not call it with a tensor by position: it reads its weight itself, or does not use it"
#: Layers that are never factorised.
_UNFIT = (
    (
        nn.MultiheadAttention,
        "nn.MultiheadAttention reads the weights of its projections itself, so no layers can stand in for them",
    ),
    (_ConvTransposeNd, "transposed convolutions are not factorised"),
)


@dataclass(frozen=True)
class Site:
    """A layer that can be factorised.

    Attributes:
        name: its qualified name.
        layer: the layer itself.
        kinds: what may stand in its place.
        sizes: for each call what one sample brings: the sizes of the image [H, W], or the number of rows.
    """

    name: str
    layer: nn.Module
    kinds: tuple[FactorKind, ...]
    sizes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs (channels) of what is factorised."""
        outputs, inputs = layer_matrix(self.layer).shape[:2]
        return outputs, inputs

    @property
    def cost(self) -> LegCost:
        """Return operations of one sample and number of weights of what is factorised."""
        outputs, inputs = self.shape
        one = layer_cost(self.layer, self.sizes)
        return type(one)(one.macs * outputs * inputs, one.parameters * outputs * inputs)


def find_sites(model: nn.Module, example: Example) -> tuple[tuple[Site, ...], dict[str, str]]:
    """Return the layers that can be factorised, in the network's order, and why the others cannot, by name.

    A layer counts only if the network calls it and still computes the same with an nn.Sequential in its place, in
    evaluation and in training: many networks read a layer's weight or sizes themselves.

    Cost: some forward passes of the example, and one more for each layer where any cannot be replaced.
    """
    reasons = {name: reason for name, layer in model.named_modules() if (reason := _unfit(layer))}
    reasons |= {name: f"shares its weight with {other}" for name, other in _shared(model).items()}
    named = {
        name: layer for name, layer in model.named_modules() if possible_kinds(layer) and name and name not in reasons
    }
    calls = calls_of(model, named, example)
    for name in named.keys() - calls.keys():
        reasons[name] = NOT_CALLED
    called = [name for name in named if name in calls]
    for name in _irreplaceable(model, called, example):
        reasons[name] = "the network reads more of it than its output, or calls it with more than one input"
    sites = [
        Site(name, named[name], possible_kinds(named[name]), calls[name]) for name in called if name not in reasons
    ]
    return tuple(sites), reasons


def _unfit(layer: nn.Module) -> str:
    """Say why a layer with a weight matrix has no factors; empty where it may, or where it has none."""
    for kind, reason in _UNFIT:
        if isinstance(layer, kind):
            return reason
    if not isinstance(layer, (nn.Linear, _ConvNd, nn.RNNBase)):
        return ""
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        return "its channels are in groups, which do not mix"
    if not possible_kinds(layer):
        return f"its class {type(layer).__name__} may compute something else than the torch layer that it extends"
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    computed = not isinstance(layer, nn.RNNBase) and bool(own - _OWN or "weight" not in own)
    hooked = layer._forward_pre_hooks or layer._forward_hooks  # noqa: SLF001 - torch has no other name
    return "its weight is computed from others, or it has a hook" if computed or hooked else ""


def _shared(model: nn.Module) -> dict[str, str]:
    """Return layers whose weight other names have too, each with one of them; a layer under two names counts."""
    owners: dict[int, list[str]] = defaultdict(list)
    for prefix, module in model.named_modules(remove_duplicate=False):
        for tensor in module.parameters(recurse=False):
            owners[id(tensor)].append(prefix)
    several = [names for names in owners.values() if len({*names}) > 1]
    return {name: next(each for each in names if each != name) for names in several for name in names}


def calls_of(
    model: nn.Module, named: Mapping[str, nn.Module], example: Example
) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return for each layer that is called what one sample brings to each call."""
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)

    def hook_of(name: str) -> Any:  # noqa: ANN401 - as torch declares hooks
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
            if not inputs or not isinstance(inputs[0], Tensor):
                return
            value, samples = inputs[0], len(example[0])
            if isinstance(layer, _ConvNd):
                images = value.shape[0] if value.dim() == len(layer.kernel_size) + 2 else 1
                found[name] += [tuple(value.shape[2:])] * max(1, images // samples)
            else:
                found[name].append((max(1, value[..., 0].numel() // samples),))

        return hook

    with inference_mode(model), forward_hooks(named.items(), hook_of), seeded_random():
        model(*(each.clone() for each in example))
    return {name: tuple(sizes) for name, sizes in found.items()}


def _irreplaceable(model: nn.Module, names: Sequence[str], example: Example) -> list[str]:
    """Return the layers that an nn.Sequential cannot stand in for."""
    wanted = _outputs(model, example, training=False), _outputs(model, example, training=True)
    if _stands_in(model, names, example, wanted):
        return []
    return [name for name in names if not _stands_in(model, [name], example, wanted)]


Outputs = tuple[Tensor, ...] | None


def _stands_in(model: nn.Module, names: Collection[str], example: Example, wanted: tuple[Outputs, Outputs]) -> bool:
    """Say whether the network computes the same with each of these layers in an nn.Sequential."""
    other = copied_network(model)
    for name in names:
        other.set_submodule(name, nn.Sequential(other.get_submodule(name)))
    return all(
        before is None or _alike(before, _outputs(other, example, training=training))
        for training, before in enumerate(wanted)
    )


def _outputs(model: nn.Module, example: Example, *, training: bool | int) -> Outputs:
    """Return the outputs of a copy of the network, whose statistics training changes; None where it does not run."""
    other = copied_network(model)
    other.train(bool(training))  # not chained: a `train` of the user's may return nothing
    try:
        with torch.no_grad(), seeded_random():
            result = other(*(each.clone() for each in example))
    except Exception:  # noqa: BLE001 - whatever the network's code raises, it cannot run so
        return None
    return tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


def _alike(wanted: Sequence[Tensor], found: Outputs) -> bool:
    if found is None or [each.shape for each in wanted] != [each.shape for each in found]:
        return False
    return all(
        torch.allclose(
            one.double(), two.double(), rtol=0, atol=_TOLERANCE * float(one.abs().max() or 1), equal_nan=True
        )
        for one, two in zip(wanted, found, strict=True)
        if one.numel()
    )


def count_reasons(reasons: Mapping[str, str]) -> str:
    """Return reasons with how many layers each holds for, as one text for a message."""
    counts = Counter(reasons.values())
    return "; ".join(f"{reason}: {count} layer{'s' * (count > 1)}" for reason, count in counts.items()) or "none"
