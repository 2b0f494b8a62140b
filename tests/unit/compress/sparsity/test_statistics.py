"""Statistics that move with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.compress.sparsity.statistics import correct_statistics


def network() -> nn.Sequential:
    """Return two layers with norms whose statistics are not those of the images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3))
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.num_batches_tracked.fill_(17)
    return model.eval()


def batches() -> list[tuple[Tensor]]:
    """Return two batches of images."""
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 2, 6, 6, generator=generator),) for _ in range(2)]


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and statistics."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_network_that_has_not_changed_stays_as_it_is() -> None:
    """Also where the images are unlike those of its training."""
    model, before = network(), network()
    assert correct_statistics(model, before, batches)
    for name, value in state(before).items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_a_layer_with_twice_the_weights_has_twice_the_mean() -> None:
    """The first norm takes it all up, and nothing changes behind it; the network before is left alone."""
    model, before = network(), network()
    with torch.no_grad():
        model[0].weight *= 2
        model[0].bias *= 2
        model[0].bias[0] += 1
    untouched = state(before)
    assert correct_statistics(model, before, batches)
    shift = torch.tensor([1.0, 0, 0, 0])
    torch.testing.assert_close(model[1].running_mean, 2 * before[1].running_mean + shift, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model[1].running_var, 4 * before[1].running_var)
    torch.testing.assert_close(model[4].running_mean, before[4].running_mean, atol=1e-4, rtol=1e-4)
    assert not model.training
    assert int(model[1].num_batches_tracked) == 17
    assert all(torch.equal(untouched[name], value) for name, value in state(before).items())


def test_a_channel_without_weights_gives_what_its_norm_adds() -> None:
    """Nothing is divided by a variance that has gone, and one that comes to life has the statistics of the images."""
    model, before = network(), network()
    with torch.no_grad():
        model[0].weight[2] = 0
        before[0].weight[1] = 0
    assert correct_statistics(model, before, batches)
    outputs = model[1](model[0](batches()[0][0])).detach()
    torch.testing.assert_close(outputs[:, 2], model[1].bias[2].detach().expand_as(outputs[:, 2]))
    images = [model[0](each)[:, 1] for (each,) in batches()]
    torch.testing.assert_close(model[1].running_mean[1], torch.stack(images).mean().detach())


def test_a_network_without_norms_says_so() -> None:
    """Nothing is run."""
    model = nn.Sequential(nn.Linear(2, 2))
    assert not correct_statistics(model, model, list)
