"""Every pattern of wiring: what is pruned is pruned exactly, and what cannot be pruned is named."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compress.allocation import uniform
from pipeline.compress.certificate import certify
from pipeline.compress.graph import ChannelGraph, trace
from pipeline.compress.importance.random import random
from pipeline.compress.surgery import apply, plan_for
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = Path(__file__).parents[3] / "models"


class Net(nn.Module):
    """Layers by name and a function of (layers, input)."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        """Register the layers in order."""
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(self, x)


def conv(width_in: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the image size but for its stride."""
    return nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Shuffle channels by view and transpose, as ShuffleNet does."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(batch, -1, height, width)


def option_a(x: Tensor, extra: int) -> Tensor:
    """Halve the image and pad the channels, as the first ResNet for CIFAR does."""
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra // 2))


def shuffle_unit(m: Net, x: Tensor) -> Tensor:
    """Transform one half of the channels, then shuffle both."""
    first, second = m.stem(x).chunk(2, 1)
    return m.head(shuffled(torch.cat([first, m.a(second)], 1), 2))


def split_gate(m: Net, x: Tensor) -> Tensor:
    """Split by a size that is taken from the tensor."""
    hidden = m.a(x)
    first, second = hidden.split(hidden.shape[1] // 2, 1)
    return m.b(first * second)


def slice_gate(m: Net, x: Tensor) -> Tensor:
    """Split by slices that are taken from the tensor."""
    hidden = m.a(x)
    half = hidden.shape[1] // 2
    return m.b(hidden[:, :half] * hidden[:, half:])


def u_net(m: Net, x: Tensor) -> Tensor:
    """Go down and up by pooling, a transposed convolution and interpolation."""
    hidden = m.a(x)
    coarse = F.interpolate(F.avg_pool2d(hidden, 2), scale_factor=2.0, mode="bilinear")
    return m.head(torch.cat([m.up(F.max_pool2d(hidden, 2)), hidden, coarse], 1))


def token_mixer(m: Net, x: Tensor) -> Tensor:
    """Attend over pixels."""
    tokens = m.stem(x).flatten(2).transpose(1, 2)
    query, key, value = m.qkv(tokens).chunk(3, -1)
    mixed = (query @ key.transpose(1, 2) / 4).softmax(-1) @ value
    return m.fc((tokens + m.proj(mixed)).mean(1))


def tied() -> Net:
    """Two convolutions that share one weight."""
    layers = {"stem": conv(3, 8), "a": conv(8, 8), "b": conv(8, 8), "head": conv(8, 2)}
    layers["b"].weight = layers["a"].weight
    return Net(lambda m, x: m.head(m.b(m.a(m.stem(x)).relu())), **layers)


#: Name: network, widths of its groups, and for what is kept whole beyond input and output, a part of each reason.
NETS: dict[str, tuple[Callable[[], nn.Module], dict[str, int], list[str]]] = {
    "plain with batch norm": (
        lambda: Net(lambda m, x: m.b(m.bn(m.a(x)).relu()), a=conv(3, 8), bn=nn.BatchNorm2d(8), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "residual": (
        lambda: Net(
            lambda m, x: m.head(m.b(m.a(m.stem(x)).relu()) + m.stem(x)),
            stem=conv(3, 8),
            a=conv(8, 6),
            b=conv(6, 8),
            head=conv(8, 2),
        ),
        {"stem": 8, "a": 6},
        [],
    ),
    "inception": (
        lambda: Net(
            lambda m, x: m.head(torch.cat([m.a(x), m.b(x), x], 1)), a=conv(3, 8), b=conv(3, 6), head=conv(17, 2)
        ),
        {"a": 8, "b": 6},
        [],
    ),
    "squeeze-excite": (
        lambda: Net(
            lambda m, x: m.head(m.a(x) * m.up(m.down(m.a(x).mean((2, 3), keepdim=True)).relu()).sigmoid()),
            a=conv(3, 8),
            down=conv(8, 4, 1),
            up=conv(4, 8, 1),
            head=conv(8, 2),
        ),
        {"a": 8, "down": 4},
        [],
    ),
    "depthwise separable": (
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 8), b=conv(8, 8, groups=8), c=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "depthwise with multiplier": (
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 8), b=conv(8, 16, groups=8), c=conv(16, 2)),
        {"a": 8},
        [],
    ),
    "few wide groups": (
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 16), b=conv(16, 12, groups=2), c=conv(12, 2)),
        {"a": 8, "b": 6},
        [],
    ),
    "many narrow groups": (
        lambda: Net(lambda m, x: m.c(m.b(m.a(x)).relu()), a=conv(3, 16), b=conv(16, 24, groups=8), c=conv(24, 2)),
        {"a": 8},
        [],
    ),
    "flatten": (
        lambda: Net(lambda m, x: m.fc(m.a(x).flatten(1)), a=conv(3, 8), fc=nn.Linear(8 * 36, 2)),
        {"a": 8},
        [],
    ),
    "flatten channels last": (
        lambda: Net(lambda m, x: m.fc(m.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 8), fc=nn.Linear(8 * 36, 2)),
        {"a": 8},
        [],
    ),
    "flatten and back": (
        lambda: Net(lambda m, x: m.b(m.a(x).flatten(1).unflatten(1, (-1, 6, 6))), a=conv(3, 8), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "option A": (
        lambda: Net(
            lambda m, x: m.head(m.a(m.stem(x)) + option_a(m.stem(x), 8)),
            stem=conv(3, 8),
            a=conv(8, 16, stride=2),
            head=conv(16, 2),
        ),
        {"stem": 8},
        ["meets a fixed position"],
    ),
    "shuffle": (
        lambda: Net(lambda m, x: m.b(shuffled(m.a(x), 2)), a=conv(3, 16), b=conv(16, 2)),
        {"a": 8},
        [],
    ),
    "shuffle module": (
        lambda: Net(lambda m, x: m.b(m.s(m.a(x))), a=conv(3, 16), s=nn.ChannelShuffle(2), b=conv(16, 2)),
        {"a": 8},
        [],
    ),
    "shuffle unit": (
        lambda: Net(
            shuffle_unit,
            stem=conv(3, 16),
            a=conv(8, 8),
            head=conv(16, 2),
        ),
        {"stem": 8},
        [],
    ),
    "tied convolutions": (tied, {"stem": 8}, []),
    "tied autoencoder": (
        lambda: Net(lambda m, x: F.linear(m.a(x.flatten(1)).relu(), m.a.weight.t()), a=nn.Linear(108, 8)),
        {"a": 8},
        [],
    ),
    "image residual": (
        lambda: Net(lambda m, x: x + m.b(m.a(x).relu()), a=conv(3, 8), b=conv(8, 3)),
        {"a": 8},
        [],
    ),
    "unknown operator": (
        lambda: Net(lambda m, x: m.c(torch.fft.fft(m.b(m.a(x)), dim=1).real), a=conv(3, 8), b=conv(8, 8), c=conv(8, 2)),
        {"a": 8},
        ["aten.fft_fft in the network has no rule"],
    ),
    "chunk gate": (
        lambda: Net(lambda m, x: m.b(torch.mul(*m.a(x).chunk(2, 1))), a=conv(3, 16), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "split gate": (
        lambda: Net(split_gate, a=conv(3, 16), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "slice gate": (
        lambda: Net(slice_gate, a=conv(3, 16), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "glu": (lambda: Net(lambda m, x: m.b(F.glu(m.a(x), 1)), a=conv(3, 16), b=conv(8, 2)), {"a": 8}, []),
    "unequal split": (
        lambda: Net(lambda m, x: m.b(m.a(x).split([5, 3], 1)[0]), a=conv(3, 8), b=conv(5, 2)),
        {},
        ["splits channels into unequal parts"],
    ),
    "group norm": (
        lambda: Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 16), n=nn.GroupNorm(8, 16), b=conv(16, 2)),
        {"a": 8},
        [],
    ),
    "layer norm": (
        lambda: Net(
            lambda m, x: m.b(m.n(m.a(x.flatten(1)))), a=nn.Linear(108, 16), n=nn.LayerNorm(16), b=nn.Linear(16, 2)
        ),
        {},
        ["aten.layer_norm in n takes statistics over channels"],
    ),
    "instance norm": (
        lambda: Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 8), n=nn.InstanceNorm2d(8, affine=True), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "prelu": (lambda: Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 8), n=nn.PReLU(8), b=conv(8, 2)), {"a": 8}, []),
    "u-net": (
        lambda: Net(
            u_net,
            a=conv(3, 8),
            up=nn.ConvTranspose2d(8, 6, 2, stride=2),
            head=conv(22, 2),
        ),
        {"a": 8, "up": 6},
        [],
    ),
    "spatial gate": (
        lambda: Net(lambda m, x: m.b(m.a(x) * m.gate(m.a(x)).sigmoid()), a=conv(3, 8), gate=conv(8, 1), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "channel statistics": (
        lambda: Net(lambda m, x: m.b(m.a(x) * m.a(x).mean(1, keepdim=True)), a=conv(3, 8), b=conv(8, 2)),
        {},
        ["aten.mean in the network mixes or picks channels"],
    ),
    "pixel shuffle": (
        lambda: Net(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=conv(3, 32), b=conv(8, 2)),
        {"a": 8},
        [],
    ),
    "pixel unshuffle": (
        lambda: Net(lambda m, x: m.b(F.pixel_unshuffle(m.a(x), 2)), a=conv(3, 8), b=conv(32, 2)),
        {"a": 8},
        [],
    ),
    "one dimension": (
        lambda: Net(
            lambda m, x: m.c(m.bn(m.b(m.a(x.flatten(2)))).amax(2)),
            a=nn.Conv1d(3, 8, 3),
            b=nn.Conv1d(8, 6, 3),
            bn=nn.BatchNorm1d(6),
            c=nn.Linear(6, 2),
        ),
        {"a": 8, "b": 6},
        [],
    ),
    "scale and matrix": (
        lambda: Net(
            lambda m, x: (m.a(x) * m.scale).mean((2, 3)) @ m.matrix,
            a=conv(3, 8),
            scale=nn.Parameter(torch.rand(1, 8, 1, 1)),
            matrix=nn.Parameter(torch.randn(8, 2)),
        ),
        {"a": 8},
        [],
    ),
    "attention": (
        lambda: Net(token_mixer, stem=conv(3, 8), qkv=nn.Linear(8, 48), proj=nn.Linear(16, 8), fc=nn.Linear(8, 2)),
        {"stem": 8},
        ["aten.matmul in the network sums over channels of two computed tensors"],
    ),
    "weight standardisation": (
        lambda: Net(
            lambda m, x: m.b(F.conv2d(m.a(x), m.w - m.w.mean((1, 2, 3), keepdim=True))),
            a=conv(3, 8),
            w=nn.Parameter(torch.randn(6, 8, 3, 3)),
            b=conv(6, 2),
        ),
        {"w": 6},
        ["aten.mean in the network mixes or picks channels"],
    ),
    "constant": (
        lambda: Net(lambda m, x: m.b(m.a(x) * torch.arange(8.0).view(8, 1, 1)), a=conv(3, 8), b=conv(8, 2)),
        {},
        ["aten.mul in the network meets a fixed tensor"],
    ),
    "unused layer": (
        lambda: Net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), aside=conv(8, 8), b=conv(8, 2)),
        {"a": 8},
        ["not used in evaluation"],
    ),
    "used twice": (
        lambda: Net(lambda m, x: m.b(m.a(m.a(m.stem(x)))), stem=conv(3, 8), a=conv(8, 8), b=conv(8, 2)),
        {"stem": 8},
        [],
    ),
    "two outputs": (
        lambda: Net(
            lambda m, x: {"map": m.a(x), "class": m.c(m.b(m.a(x)).mean((2, 3)))},
            a=conv(3, 8),
            b=conv(8, 6),
            c=nn.Linear(6, 2),
        ),
        {"b": 6},
        [],
    ),
}


def pruned(model: nn.Module, example: Tensor, align: int = 1) -> tuple[nn.Module, ChannelGraph]:
    """Return a copy without a random half of every group, certified."""
    graph = trace(model, example)
    plan = plan_for(graph, uniform(random(graph, 0), 0.5, align=align))
    smaller = deepcopy(model)
    apply(smaller, plan)
    assert certify(model, smaller, plan, example).relative_error <= 1e-9
    return smaller, graph


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NETS)
def test_wiring(name: str) -> None:
    """Groups are those expected, half of each leaves exactly, twice in a row, and the rest has a reason."""
    build, groups, reasons = NETS[name]
    model, example = build().eval(), torch.randn(2, 3, 6, 6)
    smaller, graph = pruned(model, example)
    assert {group.name: group.width for group in graph.groups} == groups
    told = {frozen.reason for frozen in graph.frozen} - {"input of the network", "output of the network"}
    assert all(any(reason in text for text in told) for reason in reasons), told
    assert bool(told) == bool(reasons)
    _, graph = pruned(smaller, example)
    assert {group.name: group.width for group in graph.groups} == {
        name: (width + 1) // 2 for name, width in groups.items()
    }


@pytest.mark.parametrize("name", ["residual", "inception", "shuffle unit", "tied convolutions", "u-net"])
def test_pruned_network_trains_and_exports(name: str) -> None:
    """After pruning, one step of SGD changes every weight, and the network can be exported again."""
    smaller, _ = pruned(NETS[name][0]().eval(), torch.randn(2, 3, 6, 6))
    before = {key: value.clone() for key, value in smaller.named_parameters()}
    smaller.train()(torch.randn(4, 3, 6, 6)).square().sum().backward()
    torch.optim.SGD(smaller.parameters(), lr=0.1).step()
    assert all(not torch.equal(before[key], value) for key, value in smaller.named_parameters() if value.dim() > 1)
    assert torch.export.export(smaller.eval(), (torch.randn(2, 3, 6, 6),)).graph is not None


@pytest.mark.parametrize(
    ("name", "shape", "groups", "first"),
    [
        ("lenet_300_100", (1, 28, 28), 2, "fc1"),
        ("lenet_5", (1, 28, 28), 3, "conv1"),
        ("resnet_cifar", (3, 16, 16), 12, "conv"),
        ("resnet18", (3, 32, 32), 12, "conv1"),
        pytest.param("efficientnet_lite0", (3, 32, 32), 24, "stem", marks=pytest.mark.slow),
    ],
)
def test_reference_models(name: str, shape: tuple[int, ...], groups: int, first: str) -> None:
    """Every network that ships is pruned exactly, twice, and keeps nothing whole but its classes."""
    spec = importlib.util.spec_from_file_location(f"definition_{name}", MODELS / name / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    smaller, graph = pruned(module.build().eval(), torch.randn(2, *shape), align=8)
    assert len(graph.groups) == groups
    assert graph.groups[0].name == first
    assert {frozen.reason for frozen in graph.frozen if not frozen.consumes} == {"output of the network"}
    pruned(smaller, torch.randn(2, *shape), align=8)


def test_members_say_what_each_channel_owns() -> None:
    """After a flatten of 2x2 pixels, a channel owns its filter, its norm and four columns of the linear layer."""
    net = Net(lambda m, x: m.fc(m.n(m.a(x)).flatten(1)), a=conv(3, 4), n=nn.BatchNorm2d(4), fc=nn.Linear(16, 2)).eval()
    (group,) = trace(net, torch.randn(2, 3, 2, 2)).groups
    owned = {(member.tensor, member.dim): member for member in group.members}
    names = ("a.weight", "a.bias", "n.weight", "n.bias", "n.running_mean", "n.running_var", "fc.weight")
    assert {tensor for tensor, _ in owned} == set(names)
    assert np.array_equal(owned["a.weight", 0].positions, [[0], [1], [2], [3]])
    assert np.array_equal(owned["fc.weight", 1].positions, np.arange(16).reshape(4, 4))
    assert [member.tensor for member in group.members if member.consumes] == ["fc.weight"]
    assert group.layers == ("a", "n")


def test_tracing_changes_nothing() -> None:
    """The modes and values of the network are as before."""
    net = Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(3, 4), n=nn.BatchNorm2d(4), b=conv(4, 2)).train()
    before = deepcopy(net.state_dict())
    trace(net, torch.randn(2, 3, 4, 4))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    "forward",
    [lambda m, x: m.a(x).view(2, -1), lambda m, x: m.a(x) if x.sum() > 0 else x],
    ids=["fixed batch", "branch on a value"],
)
def test_what_cannot_be_exported_is_an_input_error(forward: Callable[[Net, Tensor], Tensor]) -> None:
    """The message has what torch.export said, in one line, and what to do."""
    with pytest.raises(InputError, match=r"torch\.export: \S.* Expected a forward without") as caught:
        trace(Net(forward, a=conv(3, 8)).eval(), torch.randn(2, 3, 4, 4))
    assert "\n" not in str(caught.value)


def test_an_example_of_one_is_refused() -> None:
    """torch.export would take a batch of one for a constant."""
    with pytest.raises(InputError, match="batch of 1; expected 2 or more"):
        trace(Net(lambda m, x: m.a(x), a=conv(3, 8)), torch.randn(1, 3, 4, 4))
