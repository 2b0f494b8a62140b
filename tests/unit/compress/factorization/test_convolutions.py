"""Errors of factorised convolutions: on the images that they were made for, measured at the layer's output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.factorization.legs import Factor, build_legs, layer_matrix, set_weights
from pipeline.compress.factorization.moments import input_moments, input_rows
from pipeline.compress.factorization.options import RankRule, factor_weights, layer_options
from pipeline.compress.factorization.sites import Site
from pipeline.compress.factorization.tucker import hooi_bases


def images(count: int, seed: int = 0) -> Tensor:
    """Return smooth images [N, 6, 10, 10], float64, whose channels are mixtures of two."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(count, 2, 10, 10, generator=generator, dtype=torch.float64)
    smooth = nn.functional.avg_pool2d(rough, 3, 1, 1)
    mixing = torch.randn(6, 2, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(count, 6, 10, 10, generator=generator, dtype=torch.float64)
    return torch.einsum("cm,nmhw->nchw", mixing, smooth) + 0.05 * noise


def convolution() -> nn.Conv2d:
    """Return a 3x3 layer of 6 to 12 channels, float64."""
    torch.manual_seed(0)
    return nn.Conv2d(6, 12, 3, padding=1).double()


def output_error(layer: nn.Module, factor: Factor, gram: Tensor | None, value: Tensor) -> float:
    """Return the relative squared error of the layer's output without its bias, from a forward pass."""
    legs = build_legs(layer, factor)
    set_weights(legs, factor_weights(layer_matrix(layer), factor, gram))
    wanted = layer(value)
    bias: Any = layer.bias
    plain = wanted - bias[:, None, None]
    return float((legs(value) - wanted).square().sum() / plain.square().sum())


FACTORS = [Factor("spatial", (4,)), Factor("channel", (3,)), Factor("tucker", (3, 4))]


@pytest.mark.parametrize("factor", FACTORS, ids=lambda each: each.kind)
def test_whitening_beats_plain_at_the_same_size(factor: Factor) -> None:
    """On correlated channels and neighbouring pixels, on the images themselves and on new ones."""
    layer, value = convolution(), images(40)
    with torch.no_grad():
        rows = input_rows(layer, value, 10**6, torch.Generator())
        gram = rows.T @ rows / len(rows)
        for seen in (value, images(40, seed=5)):
            plain, whitened = (output_error(layer, factor, each, seen) for each in (None, gram))
            assert whitened < 0.6 * plain


@pytest.mark.parametrize("factor", FACTORS, ids=lambda each: each.kind)
def test_what_is_predicted_is_what_the_output_loses(factor: Factor) -> None:
    """Of spatial and channel legs exactly; of tucker that of the HOSVD, from which HOOI begins."""
    layer, value = convolution(), images(40)
    with torch.no_grad():
        gram = input_moments(layer, {"": layer}, [(value,)], images=1, seed=0)[""]
        site = Site("a", layer, (factor.kind,), ((10, 10),))
        predicted = next(
            each for each in layer_options(site, site.kinds, gram, RankRule(1, 1)) if each.factor == factor
        )
        measured = output_error(layer, factor, gram, value)
    if factor.kind == "tucker":
        assert measured == pytest.approx(predicted.error, rel=0.05)
    else:
        assert measured == pytest.approx(predicted.error, rel=1e-6)


def test_hooi_is_a_fixed_point_that_beats_where_it_began() -> None:
    """No better basis for the other one on either side; more energy than the HOSVD; exact where the ranks are."""
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(7, 6, 4, generator=generator, dtype=torch.float64)

    def kept(outer: Tensor, inner: Tensor) -> float:
        return float(torch.einsum("nck,no,ci->oik", tensor, outer, inner).square().sum())

    def leading(matrix: Tensor, rank: int) -> Tensor:
        return torch.linalg.svd(matrix)[0][:, :rank]

    outer, inner = hooi_bases(tensor, (2, 3))
    torch.testing.assert_close(outer.T @ outer, torch.eye(3).double())
    torch.testing.assert_close(inner.T @ inner, torch.eye(2).double())
    begun = leading(tensor.flatten(1), 3), leading(tensor.transpose(0, 1).flatten(1), 2)
    assert kept(outer, inner) > kept(*begun) * 1.001
    best_outer = leading(torch.einsum("nck,ci->nik", tensor, inner).flatten(1), 3)
    best_inner = leading(torch.einsum("nck,no->cok", tensor, outer).flatten(1), 2)
    assert kept(best_outer, inner) == pytest.approx(kept(outer, inner), rel=1e-5)
    assert kept(outer, best_inner) == pytest.approx(kept(outer, inner), rel=1e-5)
    low = torch.einsum("oik,no,ci->nck", torch.randn(3, 2, 4, generator=generator).double(), *begun)
    outer, inner = hooi_bases(low, (2, 3))
    torch.testing.assert_close(torch.einsum("nck,no,ci,mo,di->mdk", low, outer, inner, outer, inner), low)


def test_moments_are_means_over_all_that_the_layer_gets() -> None:
    """Against the patches of every place; with fewer rows they are near; the network stays as it was."""
    layer, value = convolution(), images(6)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(1200, 3).double()).train()
    batches = [(value[:4],), (value[4:],)]
    found = input_moments(model, {"0": layer, "2": model[2]}, batches, images=6, seed=0)
    rows = input_rows(layer, value, 10**6, torch.Generator())
    torch.testing.assert_close(found["0"], rows.T @ rows / len(rows))
    hidden = layer(value).flatten(1).detach()
    torch.testing.assert_close(found["2"], hidden.T @ hidden / 6)
    assert model.training
    some = input_moments(model, {"0": layer}, batches, images=2_000, seed=0)["0"]
    assert 0.01 < float((some - found["0"]).norm() / found["0"].norm()) < 0.7
