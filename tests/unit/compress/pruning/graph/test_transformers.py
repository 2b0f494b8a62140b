"""Transformers and their relatives: blocks with residual tokens, modules of torch.nn, mixing of tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Net2, Pattern, check, conv

TOKENS = ((2, 5, 12),)


def with_class_token(m: Net, x: Tensor) -> Tensor:
    """Put a stored token before the patches, add positions, attend, and classify the token."""
    tokens = m.patch(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([m.token.expand(tokens.shape[0], -1, -1), tokens], 1) + m.position
    hidden = m.norm(tokens)
    query, key, value = m.qkv(hidden).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    tokens = tokens + m.proj(mixed)
    return m.head((tokens + m.down(F.gelu(m.up(tokens))))[:, 0])


def mixer(m: Net, x: Tensor) -> Tensor:
    """Mix tokens by linear layers over positions, then channels (MLP-Mixer)."""
    tokens = m.stem(x)
    tokens = tokens + m.out(m.across(tokens.transpose(1, 2)).relu()).transpose(1, 2)
    return m.head((tokens + m.down(m.up(tokens).relu())).mean(1))


def spatial_gating(m: Net, x: Tensor) -> Tensor:
    """Gate one half of the channels by the other half mixed over tokens (gMLP)."""
    first, second = m.up(x).chunk(2, -1)
    return m.down(first * m.across(second.transpose(1, 2)).transpose(1, 2))


def module_attention(m: Net, x: Tensor) -> Tensor:
    """Call nn.MultiheadAttention on the tokens."""
    tokens = m.stem(x)
    return m.head(tokens + m.attend(tokens, tokens, tokens, need_weights=False)[0])


def class_token_net() -> Net:
    """Return one block of a vision transformer with 2 heads of 4."""
    return Net(
        with_class_token,
        patch=nn.Conv2d(3, 8, 2, 2),
        token=nn.Parameter(torch.randn(1, 1, 8)),
        position=nn.Parameter(torch.randn(1, 10, 8)),
        norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24),
        proj=nn.Linear(8, 8),
        up=nn.Linear(8, 16),
        down=nn.Linear(16, 8),
        head=nn.Linear(8, 2),
    )


def rotary(m: Net, x: Tensor) -> Tensor:
    """Turn pairs of dimensions by an angle for each place."""
    query, key, value = (layer(x).unflatten(-1, (2, 6)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    query, key = (each * m.cosine + torch.cat([-each[..., 3:], each[..., :3]], -1) * m.sine for each in (query, key))
    return m.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def rotary_net() -> Net:
    """Return two heads of six whose angles stand in buffers."""
    layers = {name: nn.Linear(12, 12) for name in ("q", "k", "v")}
    net = Net(rotary, **layers, proj=nn.Linear(12, 7))
    net.register_buffer("cosine", torch.rand(5, 6))
    net.register_buffer("sine", torch.rand(5, 6))
    return net


def tokens_of_patches(m: Net, x: Tensor) -> Tensor:
    """Give pixels of the same place in all patches to a linear layer, and fold them back (MobileViT)."""
    hidden = m.a(x)
    batch, channels, height, width = hidden.shape
    patches = hidden.reshape(batch * channels * 3, 2, 3, 2).transpose(1, 2).reshape(batch, channels, 9, 4)
    tokens = m.mix(patches.transpose(1, 3).reshape(batch * 4, 9, channels))
    patches = tokens.reshape(batch, 4, 9, -1).transpose(1, 3).reshape(batch * channels * 3, 3, 2, 2)
    return m.b(patches.transpose(1, 2).reshape(batch, channels, height, width))


def shifted_windows(m: Net, x: Tensor) -> Tensor:
    """Attend in windows of 3x3 that are shifted by one pixel, with a table of distances and a mask (Swin)."""
    tokens = m.norm(m.a(x).permute(0, 2, 3, 1))
    batch, height, width, channels = tokens.shape
    cut = torch.roll(tokens, (-1, -1), (1, 2)).view(batch, 2, 3, 2, 3, channels).permute(0, 1, 3, 2, 4, 5)
    query, key, value = m.qkv(cut.reshape(-1, 9, channels)).reshape(-1, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
    bias = m.table[m.distances.view(-1)].view(9, 9, -1).permute(2, 0, 1).contiguous()
    scores = (query * 0.5) @ key.transpose(-2, -1) + bias.unsqueeze(0)
    scores = scores.view(batch, 4, 2, 9, 9) + m.mask.unsqueeze(1).unsqueeze(0)
    mixed = scores.view(-1, 2, 9, 9).softmax(-1) @ value
    joined = m.proj(mixed.transpose(1, 2).reshape(-1, 9, channels)).view(batch, 2, 2, 3, 3, channels)
    joined = torch.roll(joined.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, channels), (1, 1), (1, 2))
    return m.head((tokens + joined).mean((1, 2)))


def shifted_windows_net() -> Net:
    """Return two heads of four over windows, with indices and mask in buffers."""
    net = Net(
        shifted_windows,
        a=conv(3, 8),
        norm=nn.LayerNorm(8),
        qkv=nn.Linear(8, 24),
        table=nn.Parameter(torch.randn(25, 2)),
        proj=nn.Linear(8, 8),
        head=nn.Linear(8, 2),
    )
    net.register_buffer("distances", torch.randint(25, (9, 9)))
    net.register_buffer("mask", torch.where(torch.rand(4, 9, 9) > 0.5, 0.0, -100.0))
    return net


def unequal_heads(m: Net, x: Tensor) -> Tensor:
    """Give each of two heads 4 dimensions for queries and keys and 8 for values, behind a batch norm (LeViT)."""
    batch, tokens, _ = x.shape
    hidden = m.norm(m.qkv(x).flatten(0, 1)).view(batch, tokens, 2, 16)
    query, key, value = hidden.split([4, 4, 8], 3)
    scores = (query.permute(0, 2, 1, 3) @ key.permute(0, 2, 3, 1) * 0.5).softmax(-1)
    return m.proj(F.hardswish((scores @ value.permute(0, 2, 1, 3)).transpose(1, 2).reshape(batch, tokens, 16)))


def non_local(m: Net, x: Tensor) -> Tensor:
    """Add to every pixel what all pixels say, weighed by likeness; one size is a literal."""
    hidden = m.a(x)
    query, key, value = (layer(hidden).flatten(2) for layer in (m.q, m.k, m.v))
    weights = (query.transpose(1, 2) @ key).softmax(-1)
    return m.b(hidden + m.proj((value @ weights.transpose(1, 2)).view(-1, 4, 6, 6)))


PATTERNS = {
    "vision transformer": Pattern(
        class_token_net,
        {"patch": 8, "qkv": 4, "up": 16},
        statistics=("layer_norm in norm",),
        rewritten="outputs differ",
    ),
    "multi-head attention module": Pattern(
        lambda: Net(
            module_attention,
            stem=nn.Linear(12, 8),
            attend=nn.MultiheadAttention(8, 2, batch_first=True),
            head=nn.Linear(8, 3),
        ),
        {"stem": 8, "attend": 4},
        shapes=TOKENS,
        rewritten="does not run",
    ),
    "transformer encoder": Pattern(
        lambda: Net(
            lambda m, x: m.head(m.encode(m.stem(x))),
            stem=nn.Linear(12, 8),
            encode=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True),
                2,
                enable_nested_tensor=False,
            ),
            head=nn.Linear(8, 3),
        ),
        {
            "stem": 8,
            "encode.layers.0.self_attn": 4,
            "encode.layers.0.linear1": 16,
            "encode.layers.1.self_attn": 4,
            "encode.layers.1.linear1": 16,
        },
        shapes=TOKENS,
        statistics=tuple(f"layer_norm in encode.layers.{layer}.norm{norm}" for layer in (0, 1) for norm in (1, 2)),
        rewritten="does not run",
    ),
    "mixer": Pattern(
        lambda: Net(
            mixer,
            stem=nn.Linear(12, 8),
            across=nn.Linear(5, 10),
            out=nn.Linear(10, 5),
            up=nn.Linear(8, 16),
            down=nn.Linear(16, 8),
            head=nn.Linear(8, 2),
        ),
        {"stem": 8, "across": 10, "up": 16},
        shapes=TOKENS,
    ),
    "spatial gating": Pattern(
        lambda: Net(spatial_gating, up=nn.Linear(12, 16), across=nn.Linear(5, 5), down=nn.Linear(8, 2)),
        {"up": 8},
        shapes=TOKENS,
    ),
    "transformer decoder": Pattern(
        lambda: Net2(
            lambda m, x, y: m.head(m.decode(m.stem(x), m.stem(y))),
            stem=nn.Linear(12, 8),
            decode=nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
            head=nn.Linear(8, 3),
        ),
        {"stem": 8, "decode.self_attn": 4, "decode.multihead_attn": 4, "decode.linear1": 16},
        shapes=((2, 5, 12), (2, 4, 12)),
        statistics=tuple(f"layer_norm in decode.norm{norm}" for norm in (1, 2, 3)),
        rewritten="does not run",
    ),
    "multi-head attention module, heads leave whole": Pattern(
        lambda: Net(
            lambda m, x: m.head(m.attend(x, x, x)[0]),
            attend=nn.MultiheadAttention(12, 3, batch_first=True),
            head=nn.Linear(12, 2),
        ),
        {"attend": 3, "attend.out_proj": 12},
        shapes=TOKENS,
        rewritten="does not run",
        options={"heads": True},
    ),
    "keys and values of another width": Pattern(
        lambda: Net2(
            lambda m, x, y: m.head(m.attend(x, y, y, need_weights=False)[0]),
            attend=nn.MultiheadAttention(12, 3, kdim=5, vdim=5, batch_first=True),
            head=nn.Linear(12, 2),
        ),
        {"attend": 4, "attend.out_proj": 12},
        shapes=((2, 5, 12), (2, 4, 5)),
        rewritten="does not run",
    ),
    "shifted windows": Pattern(
        shifted_windows_net,
        {"a": 8, "qkv": 4},
        statistics=("layer_norm in norm",),
        rewritten="does not run",
        frozen=("aten.add in the network meets a fixed tensor",),
    ),
    "shifted windows, heads leave whole": Pattern(
        shifted_windows_net,
        {"a": 8, "qkv": 2},
        statistics=("layer_norm in norm",),
        rewritten="does not run",
        frozen=("aten.add in the network meets a fixed tensor",),
        options={"heads": True},
        again={"a": 4},
    ),
    "heads of unequal parts": Pattern(
        lambda: Net(unequal_heads, qkv=nn.Linear(12, 32), norm=nn.BatchNorm1d(32), proj=nn.Linear(16, 5)),
        {"qkv": 4, "qkv:2": 8},
        shapes=TOKENS,
        rewritten="does not run",
    ),
    "rotary positions": Pattern(rotary_net, {"q": 3, "v": 6}, shapes=TOKENS, rewritten="does not run"),
    "tokens of patches": Pattern(
        lambda: Net(tokens_of_patches, a=conv(3, 8), mix=nn.Linear(8, 8), b=conv(8, 2)), {"a": 8, "mix": 8}
    ),
    "non-local block": Pattern(
        lambda: Net(non_local, a=conv(3, 8), q=conv(8, 4), k=conv(8, 4), v=conv(8, 4), proj=conv(4, 8), b=conv(8, 2)),
        {"a": 8, "q": 4, "v": 4},
        rewritten="does not run",
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_transformers(name: str) -> None:
    """Tokens lose channels through the whole stream, heads and hidden layers on their own."""
    check(PATTERNS[name])
