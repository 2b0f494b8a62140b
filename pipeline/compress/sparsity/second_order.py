"""Second-order methods on a network: what they need from it is collected, and its layers are solved.

`obs` minimises the error of each layer's own outputs, `block_fisher` and `obd` the loss. The first two change the
weights that stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.compress.sparsity import block_fisher
from pipeline.compress.sparsity.allocation import kept_count, layer_densities
from pipeline.compress.sparsity.blocked_obs import prune_in_blocks
from pipeline.compress.sparsity.elimination import kept_support
from pipeline.compress.sparsity.layer_inputs import (
    channels_last,
    hessian_bytes,
    input_hessians,
    matrix_layers,
    weight_matrix,
)
from pipeline.compress.sparsity.obd import curvature_diagonal, weight_saliency
from pipeline.compress.sparsity.obs import PrunedRows, damped_hessian, prune_rows, refit_kept, row_traces
from pipeline.compress.sparsity.sample_gradients import sample_gradients
from pipeline.compress.sparsity.trace_allocation import allocate_steps
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from pipeline.compress.sparsity.elimination import RowTraces
    from pipeline.compress.sparsity.layer_inputs import Layer
    from pipeline.compress.sparsity.request import SparsityRequest

#: Bytes of Hessians, or of inverse blocks of the Fisher matrix, that are held at once.
HELD_BYTES = 2**30
#: Multiply-adds of exact elimination of one layer (outputs * K^3 / 3), some minutes; above, `blocked_obs`.
EXACT_WORK = 10**12
#: Bytes of gradients that are taken into the blocks together.
_GRADIENT_BYTES = 2**28

#: New weights by parameter, and what else is to be told.
Solved = tuple[dict[str, "Tensor"], dict[str, Any]]


def solve_obs(request: SparsityRequest) -> Solved:
    """Return the weights of all layers by optimal brain surgeon on their own outputs.

    Every layer is solved for the inputs that it has in the network as it is given. With `scope: global` the layers'
    traces are merged by their relative errors. Layers whose exact elimination is too much work go through a shared
    Cholesky factor; the details name them.

    Raises:
        InputError: a layer has no matrix on its inputs, never runs, or would be left empty; blocks of outputs are asked
            for; or `scope: global` on a layer too wide for it.
        StageError: a layer's Hessian is not finite, or singular whatever is added.
    """
    layers = _layers_of(request)
    if request.aim.pattern.block > 1:
        raise InputError("pattern: obs has no blocks of output channels; allowed: N:M, or none")
    request.aim.pattern.require_fit(request.layers)
    if request.aim.scope == "global" and not request.aim.pattern.of:
        return _solve_together(request, layers)
    weights: dict[str, Tensor] = {}
    details: dict[str, Any] = {"errors": {}, "blocked": [], "damping": 0.0}
    amounts = _amounts(request)
    for part in _parts(layers):
        hessians = _hessians(request, part)
        for name, layer in part.items():
            exact = _work(layer) <= EXACT_WORK
            solved = _solve_layer(layer, hessians.pop(name), amounts[name], exact=exact)
            weights[_parameter(name)] = solved.weight.reshape(layer.weight.shape)
            details["errors"][name] = solved.loss
            details["damping"] = max(details["damping"], solved.damping)
            details["blocked"] += [] if exact else [name]
    return weights, details


def solve_block_fisher(request: SparsityRequest) -> Solved:
    """Return the weights of all layers by OBS on the loss, with the empirical Fisher matrix in blocks.

    Blocks have `block_fisher.BLOCK` weights, or as many as `HELD_BYTES` allow.

    Raises:
        InputError: a layer would be left empty, a pattern is asked for, or the task's targets are of whole batches.
        StageError: gradients are not finite, or all zero.
    """
    if request.aim.pattern.of or request.aim.pattern.block > 1:
        raise InputError("pattern: block_fisher knows single weights alone: remove it, or use obs for N:M")
    count = sum(each.weight.numel() for each in request.layers)
    block = max(1, min(block_fisher.BLOCK, HELD_BYTES // (8 * count)))
    inverses = _fisher_inverses(request, block)
    flat = {each.name: each.weight.detach().double().reshape(-1) for each in request.layers}
    if request.aim.scope == "global":
        leaving = count - kept_count(request.aim.density, count, "the network")
        new, loss = block_fisher.prune_blocks(flat, inverses, leaving)
    else:
        densities, new, loss = layer_densities(request.layers, request.aim.density, request.aim.scope), {}, 0.0
        for each in request.layers:
            size = each.weight.numel()
            leaving = size - kept_count(densities[each.name], size, each.layer)
            found, more = block_fisher.prune_blocks({each.name: flat[each.name]}, inverses, leaving)
            new, loss = new | found, loss + more
    if empty := [name for name, values in new.items() if not bool(values.any())]:
        raise InputError(f"density: {request.aim.density:.3g} leaves {empty[0]} empty: raise it, or use scope layer")
    weights = {each.name: new[each.name].reshape(each.weight.shape) for each in request.layers}
    return weights, {"predicted_loss_increase": loss, "block": block}


def obd_scores(request: SparsityRequest) -> dict[str, Tensor]:
    """Return h w^2 / 2 of each weight by parameter, h the diagonal of the Gauss-Newton matrix of the task's loss.

    Raises:
        InputError: a layer has no matrix on its inputs.
        StageError: the network has several outputs, or very many; see `curvature_diagonal`.
    """
    layers, samples = _layers_of(request), request.samples
    found = curvature_diagonal(request.model, layers, samples.for_loss(), samples.loss, seed=request.seed)
    return {_parameter(name): weight_saliency(layers[name].weight.detach(), each) for name, each in found.items()}


def _layers_of(request: SparsityRequest) -> dict[str, Layer]:
    """Return the layers of a request. Raises InputError where one has other weights, or shares them with another."""
    owners: dict[int, list[str]] = {}
    for name, module in request.model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    for each in request.layers:
        if len(found := owners[id(each.weight)]) > 1:
            raise InputError(f"Layers {' and '.join(found[:2])} share their weights: name {found[0]} in keep.")
    return matrix_layers(request.model, [each.layer for each in request.layers])


def _parameter(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _work(layer: Layer) -> int:
    width = layer.weight[0].numel()
    return layer.weight.shape[0] * width**3 // 3


def _parts(layers: Mapping[str, Layer]) -> Iterator[dict[str, Layer]]:
    """Yield layers whose Hessians are held together: those of `HELD_BYTES`, one layer at least."""
    part: dict[str, Layer] = {}
    for name, layer in layers.items():
        if part and hessian_bytes({**part, name: layer}) > HELD_BYTES:
            yield part
            part = {}
        part[name] = layer
    yield part


def _hessians(request: SparsityRequest, layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    return input_hessians(request.model, layers, (inputs for inputs, _ in request.samples.training()))


def _amounts(request: SparsityRequest) -> dict[str, float | tuple[int, int]]:
    """Return by layer its density as a share of whole weights, or the pattern."""
    aim = request.aim
    if aim.pattern.of:
        return {each.layer: (aim.pattern.kept, aim.pattern.of) for each in request.layers}
    densities = layer_densities(request.layers, aim.density, aim.scope)
    sizes = {each.layer: each.weight.numel() for each in request.layers}
    kept = {each.layer: kept_count(densities[each.name], sizes[each.layer], each.layer) for each in request.layers}
    return {name: count / sizes[name] for name, count in kept.items()}


def _solve_layer(layer: Layer, hessian: Tensor, amount: float | tuple[int, int], *, exact: bool) -> PrunedRows:
    """Solve one layer; for a pattern with its columns in the order in which input channels run fastest."""
    weight, solve = weight_matrix(layer), prune_rows if exact else prune_in_blocks
    if not isinstance(amount, tuple):
        return solve(weight, hessian, amount)
    order = channels_last(layer)
    solved = solve(weight[:, :, order], hessian[:, order][:, :, order], amount)
    return PrunedRows(solved.weight[:, :, order.argsort()], solved.loss, solved.damping)


def _solve_together(request: SparsityRequest, layers: Mapping[str, Layer]) -> Solved:
    """Solve all layers for one density of them all. Two passes over samples where Hessians are not held together."""
    if wide := [name for name, layer in layers.items() if _work(layer) > EXACT_WORK]:
        raise InputError(
            f"scope: global follows each row of a layer to its end, which is too much for {wide[0]} "
            f"{tuple(layers[wide[0]].weight.shape)}: use scope layer or erk, or name it in keep"
        )
    parts = [*_parts(layers)]
    traces: dict[str, RowTraces] = {}
    for part in parts:
        held = _hessians(request, part)
        for name, layer in part.items():
            traces[name] = row_traces(weight_matrix(layer), damped_hessian(held[name]))
    losses = {name: each.losses for name, each in traces.items()}
    total = sum(each.numel() for each in losses.values())
    steps = allocate_steps(losses, total - kept_count(request.aim.density, total, "the network"))
    weights: dict[str, Tensor] = {}
    details: dict[str, Any] = {"errors": {}, "damping": 0.0}
    for part in parts:
        held = held if len(parts) == 1 else _hessians(request, part)
        for name, layer in part.items():
            weight, damped = weight_matrix(layer), damped_hessian(held[name])
            kept = kept_support(traces[name], steps[name], weight.shape[2]).reshape(weight.shape)
            solved = refit_kept(weight, kept, held[name], damped)
            weights[_parameter(name)] = solved.weight.reshape(layer.weight.shape)
            details["errors"][name] = solved.loss
            details["damping"] = max(details["damping"], solved.damping)
    return weights, details


def _fisher_inverses(request: SparsityRequest, block: int) -> dict[str, Tensor]:
    """Return the inverse blocks of all layers' empirical Fisher matrices, by parameter.

    Damping is relative to the mean squared gradient of the first samples.
    """
    inverses: dict[str, Tensor] = {}
    weights = sum(each.weight.numel() for each in request.layers)
    for gradients in sample_gradients(request, max(1, _GRADIENT_BYTES // (8 * weights))):
        blocks = {name: block_fisher.weight_blocks(each, block) for name, each in gradients.items()}
        if not inverses:
            squares = sum(float(each.double().square().sum()) for each in gradients.values())
            mean = squares / sum(each.numel() for each in gradients.values())
            for name, each in blocks.items():
                start = block_fisher.initial_inverses(each.shape[1], block, block_fisher.DAMPING * mean)
                inverses[name] = start.contiguous()
        for name, each in blocks.items():
            block_fisher.add_gradients(inverses[name], each, request.samples.images)
    return inverses
