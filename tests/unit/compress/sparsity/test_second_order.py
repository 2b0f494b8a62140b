"""Second-order methods on a small network, against magnitude and each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.compress.sparsity import second_order
from pipeline.compress.sparsity.allocation import SparsityAim, chosen_masks
from pipeline.compress.sparsity.layers import sparse_layers
from pipeline.compress.sparsity.methods import solve_masks
from pipeline.compress.sparsity.patterns import Pattern
from pipeline.compress.sparsity.request import SparsityRequest
from pipeline.compress.sparsity.scores import magnitude_scores
from pipeline.compress.sparsity.second_order import obd_scores, solve_block_fisher, solve_obs
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = 96


@dataclass(frozen=True)
class Drawn:
    """Correlated images of four classes in batches of 32, as `Samples` gives them."""

    images: int = IMAGES

    def training(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Yield inputs and classes."""
        generator = torch.Generator().manual_seed(1)
        classes = torch.randint(0, 4, (self.images,), generator=generator)
        images = torch.randn(self.images, 1, 8, 8, generator=generator).cumsum(2).cumsum(3) / 4
        images = (images + classes[:, None, None, None]).expand(-1, 4, -1, -1).clone()
        images[:, 1:3] += torch.randn(self.images, 2, 8, 8, generator=generator)
        for start in range(0, self.images, 32):
            yield (images[start : start + 32],), classes[start : start + 32]

    for_loss = training

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:  # noqa: ANN401 - as `Samples` has it
        """Return cross-entropy."""
        return cross_entropy(outputs, targets)


def network() -> nn.Sequential:
    """Return a small network that has learnt the classes a little."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(8):
        for (inputs,), targets in Drawn().training():
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model.eval()


def request(model: nn.Module, density: float, scope: Any = "layer", pattern: Pattern = Pattern()) -> SparsityRequest:  # noqa: ANN401, B008
    """Return what a stage asks for."""
    layers = sparse_layers(model)
    alive = {each.name: torch.ones_like(each.weight, dtype=torch.bool) for each in layers}
    return SparsityRequest(model, layers, SparsityAim(density, scope, pattern), alive, Drawn(), 0)  # type: ignore[arg-type]


def loss_with(model: nn.Module, weights: dict[str, Tensor]) -> float:
    """Return the loss on the samples with other weights."""
    values = {name: each.to(torch.float32) for name, each in weights.items()}
    batches = [*Drawn().training()]
    with torch.no_grad():
        found = [cross_entropy(torch.func.functional_call(model, values, given), each) for given, each in batches]
    return float(sum(found) / len(found))


def by_magnitude(given: SparsityRequest) -> dict[str, Tensor]:
    """Return the weights with the smallest at zero."""
    masks = chosen_masks(magnitude_scores(given.layers), given.layers, given.aim)
    return {each.name: each.weight.detach() * masks[each.name] for each in given.layers}


def count(weights: dict[str, Tensor]) -> dict[str, int]:
    """Return the weights that are not zero."""
    return {name: int(each.count_nonzero()) for name, each in weights.items()}


SIZES = {"0.weight": 288, "3.weight": 288, "6.weight": 288}


def test_obs_gives_each_layer_its_density_and_lower_errors_than_magnitude() -> None:
    """The errors told are those that the layers' outputs have, and every one is below that of magnitude."""
    given = request(network(), 0.25)
    weights, details = solve_obs(given)
    assert count(weights) == dict.fromkeys(SIZES, 72)
    assert details["blocked"] == []
    plain = by_magnitude(given)
    inputs = [each for each, _ in given.samples.training()]
    seen: dict[str, list[Tensor]] = {name: [] for name in ("0", "3", "6")}
    for name, store in seen.items():
        given.model.get_submodule(name).register_forward_pre_hook(lambda _, x, store=store: store.append(x[0].double()))
    with torch.no_grad():
        for each in inputs:
            given.model(*each)
    for name, store in seen.items():
        layer, x = given.model.get_submodule(name).double(), torch.cat(store)
        before = layer(x).detach()
        errors = []
        for values in (weights, plain):
            after = torch.func.functional_call(layer, {"weight": values[f"{name}.weight"].double()}, (x,)).detach()
            errors.append(float((after - before).square().sum()) / IMAGES)
        assert details["errors"][name] == pytest.approx(errors[0], rel=1e-4)
        assert errors[0] < 0.6 * errors[1]


def test_obs_over_all_layers_has_their_density_together() -> None:
    """Layers get what their errors say; one density, to the weight."""
    weights, _ = solve_obs(request(network(), 0.25, "global"))
    found = count(weights)
    assert sum(found.values()) == 216
    assert len({*found.values()}) > 1


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_hessians_that_do_not_fit_together_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch, scope: str) -> None:
    """One layer at a time, the same weights."""
    model = network()
    whole, _ = solve_obs(request(model, 0.3, scope))
    monkeypatch.setattr(second_order, "HELD_BYTES", 1)
    parts, _ = solve_obs(request(model, 0.3, scope))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_wide_layers_go_through_one_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named, and a scope that needs exact traces refuses them."""
    model = network()
    monkeypatch.setattr(second_order, "EXACT_WORK", 4 * 72**3 // 3 - 1)
    weights, details = solve_obs(request(model, 0.25))
    assert details["blocked"] == ["6"]
    assert count(weights) == dict.fromkeys(SIZES, 72)
    with pytest.raises(InputError, match=r"too much for 6 \(4, 72\): use scope layer"):
        solve_obs(request(model, 0.25, "global"))


@pytest.mark.parametrize("exact", [True, False])
def test_obs_keeps_two_of_four_input_channels(monkeypatch: pytest.MonkeyPatch, *, exact: bool) -> None:
    """At each output channel and each position of the kernel."""
    monkeypatch.setattr(second_order, "EXACT_WORK", 10**12 if exact else 0)
    weights, _ = solve_obs(request(network(), 0.5, "layer", Pattern(2, 4)))
    for each in weights.values():
        runs = each.movedim(1, -1).reshape(-1, 4)
        assert bool((runs.count_nonzero(dim=1) == 2).all())


def test_block_fisher_loses_less_than_magnitude_and_has_the_density() -> None:
    """In each layer, and over all of them."""
    model = network()
    for scope in ("layer", "global"):
        given = request(model, 0.3, scope)
        weights, details = solve_block_fisher(given)
        assert sum(count(weights).values()) == round(0.3 * 864) if scope == "global" else 3 * 86
        assert loss_with(model, weights) < loss_with(model, by_magnitude(given))
        assert details["block"] == 50
        assert details["predicted_loss_increase"] > 0


def test_blocks_are_smaller_where_memory_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """864 weights in blocks of 10 take 69,120 bytes."""
    monkeypatch.setattr(second_order, "HELD_BYTES", 70_000)
    monkeypatch.setattr(second_order, "_GRADIENT_BYTES", 8 * 864 * 7)  # seven gradients at once
    _, details = solve_block_fisher(request(network(), 0.3))
    assert details["block"] == 10


def test_obd_is_better_than_magnitude_over_all_layers() -> None:
    """Scores are in units of the loss, so that layers compare."""
    model = network()
    given = request(model, 0.3, "global")
    masks = chosen_masks(obd_scores(given), given.layers, given.aim)
    found = {each.name: each.weight.detach() * masks[each.name] for each in given.layers}
    assert sum(count(found).values()) == round(0.3 * 864)
    assert loss_with(model, found) < loss_with(model, by_magnitude(given))


@pytest.mark.parametrize("method", ["obs", "block_fisher", "obd"])
def test_earlier_zeros_last(method: Any) -> None:  # noqa: ANN401 - a name
    """Through the table of methods, on a network that has masks already."""
    model = network()
    first = request(model, 0.5)
    solution = solve_masks("random", first)
    with torch.no_grad():
        for each in first.layers:
            each.weight.masked_fill_(~solution.masks[each.name], 0)
    found = solve_masks(method, replace(first, aim=SparsityAim(0.2, "layer"), alive=solution.masks))
    for name, mask in found.masks.items():
        assert not bool((mask & ~solution.masks[name]).any())
        assert int(mask.sum()) == 58
        if name in found.weights:
            assert torch.equal(found.weights[name] != 0, mask)


def test_what_a_method_cannot_do_is_refused() -> None:
    """Blocks of outputs, layers of other kinds, and weights that two layers share."""
    model = network()
    with pytest.raises(InputError, match="obs has no blocks of output channels"):
        solve_obs(request(model, 0.5, "layer", Pattern(block=4)))
    with pytest.raises(InputError, match="block_fisher knows single weights alone"):
        solve_block_fisher(request(model, 0.5, "layer", Pattern(2, 4)))
    with pytest.raises(InputError, match="Layer 0 is a LSTM"):
        solve_obs(request(nn.Sequential(nn.LSTM(2, 3)), 0.5))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(InputError, match="Layers 0 and 1 share their weights: name 0 in keep"):
        solve_obs(request(tied, 0.5))
