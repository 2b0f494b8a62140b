"""Every network that ships has the size that its card and its paper say, and the names that its users expect."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.compress.pruning.cost import count_cost
from pipeline.core.errors import InputError
from pipeline.network.definition import build_network
from pipeline.network.library import LIBRARIES
from tests.optional import require

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS = Path(__file__).parents[3] / "models"


@dataclass(frozen=True)
class Network:
    """A network, what it costs, and what is published: parameters and multiply-accumulates, in millions."""

    model: str
    parameters: int
    macs: int
    published: tuple[float, float] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10


IMAGENET: dict[str, Any] = {"shape": (3, 224, 224), "classes": 1000}
NETWORKS = {
    "lenet_300_100": Network("lenet_300_100", 266_610, 266_200, (0.2666, 0.2662), shape=(1, 28, 28)),
    "lenet_5": Network("lenet_5", 431_080, 2_293_000, (0.4311, 2.293), shape=(1, 28, 28)),
    "resnet_20": Network("resnet_cifar", 272_474, 40_813_184, (0.27, 40.81), {"depth": 20}),
    "resnet_56": Network("resnet_cifar", 855_770, 125_747_840, (0.85, 125.49), {"depth": 56}),
    "resnet_110": Network("resnet_cifar", 1_730_714, 253_149_824, (1.72, 252.89), {"depth": 110}),
    "resnet18": Network("resnet18", 11_689_512, 1_814_073_344, (11.69, 1814), **IMAGENET),
    "resnet50": Network("resnet50", 25_557_032, 4_089_184_256, (25.55, 4090), **IMAGENET),
    "resnet50 small": Network("resnet50", 23_520_842, 1_297_829_888, None, {"classes": 10, "small_images": True}),
    "vgg16_bn": Network("vgg16_bn", 14_991_946, 313_463_808, (14.98, 313.73)),
    "googlenet": Network("googlenet", 6_166_250, 1_521_756_160, (6.15, 1520)),
    "densenet_40": Network("densenet_40", 1_059_298, 282_917_328, (1.04, 282.92)),
    "mobilenet_v2": Network("mobilenet_v2", 3_504_872, 300_774_272, (3.50, 300), **IMAGENET),
    "mobilenet_v2 small": Network("mobilenet_v2", 2_236_682, 87_976_448, None, {"classes": 10, "small_images": True}),
    "efficientnet_lite0": Network("efficientnet_lite0", 4_652_008, 385_187_552, (4.65, 385), **IMAGENET),
    "vit": Network("vit", 2_693_578, 182_849_664),
    "deit_tiny": Network(
        "vit",
        5_717_416,
        1_253_683_200,
        (5.72, 1254),
        {"size": 224, "patch": 16, "depth": 12, "classes": 1000},
        **IMAGENET,
    ),
}
#: Those of test_task_networks.py.
OF_OTHER_TASKS = {
    *("tiny_detector", "unet_small", "espcn", "ds_cnn", "conv1d_series", "text_encoder", "bert_encoder", "mtcnn"),
}


def weighted(model: nn.Module) -> int:
    """Return the parameters of convolutions and linear layers; many publications leave norms out."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_network_has_its_published_size(name: str) -> None:
    """Parameters are exact; both counts are within 1 % of what is published; one logit for each class."""
    network = NETWORKS[name]
    with torch.device("meta"):
        model = build_network(MODELS / network.model / "model.py", network.arguments)
        assert model(torch.zeros(2, *network.shape)).shape == (2, network.classes)
        cost = count_cost(model, torch.zeros(1, *network.shape))
    assert not model.training
    assert (cost.parameters, cost.macs) == (network.parameters, network.macs)
    if network.published:
        parameters, macs = network.published
        assert cost.macs / 1e6 == pytest.approx(macs, rel=0.01)
        assert parameters in (
            pytest.approx(cost.parameters / 1e6, rel=0.01),
            pytest.approx(weighted(model) / 1e6, 0.01),
        )


def test_every_model_folder_is_covered() -> None:
    """A new model folder needs a row above; the networks of a package have names of their own."""
    folders = {path.parent.name for path in MODELS.glob("*/model.py")}
    assert folders == {network.model for network in NETWORKS.values()} | set(LIBRARIES) | OF_OTHER_TASKS


@pytest.mark.parametrize("name", NETWORKS)
def test_card_says_what_was_counted(name: str) -> None:
    """The parameters, and the operations of what is no LeNet, stand in the card as they are counted."""
    network = NETWORKS[name]
    card = (MODELS / network.model / "card.md").read_text()
    assert f"{network.parameters:,}" in card
    assert network.model.startswith("lenet") or f"{network.macs / 1e6:,.2f} M" in card


LIGHT = (
    "lenet_5",
    "resnet_20",
    "vgg16_bn",
    "googlenet",
    "densenet_40",
    "mobilenet_v2 small",
    "vit",
)  # a second or less


@pytest.mark.parametrize("name", LIGHT)
def test_every_layer_learns_from_small_grey_images(name: str) -> None:
    """In training the logits depend on the image, and the loss has a finite gradient for every parameter."""
    network = NETWORKS[name]
    size = {"size": 28} if network.model == "vit" else {}
    grey = {} if network.model == "lenet_5" else {"channels": 1}
    torch.manual_seed(0)
    model = build_network(MODELS / network.model / "model.py", {**network.arguments, **size, **grey}).train()
    logits = model(torch.randn(4, 1, 28, 28))
    cross_entropy(logits, torch.arange(4)).backward()
    assert logits.std(0).min() > 1e-4 * logits.abs().max()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("model", "arguments", "match"),
    [
        ("resnet_cifar", {"depth": 21}, "depth 21 is not 6 n"),
        ("densenet_40", {"depth": 41}, "depth 41 is not 3 n"),
        ("vit", {"size": 30}, "multiple of patch"),
        ("vit", {"width": 100}, "multiple of heads"),
    ],
)
def test_impossible_arguments_are_one_message(model: str, arguments: Mapping[str, Any], match: str) -> None:
    """An argument that gives no network is bad input."""
    with torch.device("meta"), pytest.raises(InputError, match=match):
        build_network(MODELS / model / "model.py", arguments)


@pytest.mark.parametrize(
    ("package", "theirs", "model", "arguments", "size"),
    [
        ("torchvision", "resnet18", "resnet18", {}, 64),
        ("torchvision", "resnet50", "resnet50", {}, 64),
        ("torchvision", "mobilenet_v2", "mobilenet_v2", {}, 64),
        ("timm", "deit_tiny_patch16_224", "vit", NETWORKS["deit_tiny"].arguments, 224),
    ],
)
def test_public_weights_fit(package: str, theirs: str, model: str, arguments: Mapping[str, Any], size: int) -> None:
    """With the tensors of the package's network the logits are the same, bit by bit."""
    require(package)
    other = build_network(MODELS / package / "model.py", {"name": theirs})
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    ours = build_network(MODELS / model / "model.py", arguments)
    ours.load_state_dict(other.state_dict())
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(ours(images), other(images))
