"""Attention of every spelling, token mixing, products of two computed tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Net2, Pattern, check, conv, halved

TOKENS = ((2, 5, 12),)
SOFTMAX = ("softmax in the network",)


def single(m: Net, x: Tensor) -> Tensor:
    """Attend with one head, from packed projections, to tokens that are pixels."""
    tokens = m.stem(x).flatten(2).transpose(1, 2)
    query, key, value = m.qkv(tokens).chunk(3, -1)
    mixed = (query @ key.transpose(1, 2) / 4).softmax(-1) @ value
    return m.fc((tokens + m.proj(mixed)).mean(1))


def packed(m: Net, x: Tensor) -> Tensor:
    """Attend with three heads of four from one projection, as timm's ViT does; sizes are literals."""
    batch, tokens, _ = x.shape
    query, key, value = m.qkv(x).reshape(batch, tokens, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = (query * 0.5 @ key.transpose(-2, -1)).softmax(-1) @ value
    return m.proj(mixed.transpose(1, 2).reshape(batch, tokens, 12))


def fused(m: Net, x: Tensor) -> Tensor:
    """Attend by one operator with its own scale; queries, keys and values have layers of their own."""
    query, key, value = (layer(x).unflatten(-1, (3, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def causal(m: Net, x: Tensor) -> Tensor:
    """Attend to what came before, with a stored bias on the scores of every head."""
    query, key, value = (layer(x).unflatten(-1, (3, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    bias = m.table.masked_fill(~mask, -1e4)
    return m.proj(F.scaled_dot_product_attention(query, key, value, bias).transpose(1, 2).flatten(2))


def relative(m: Net, x: Tensor) -> Tensor:
    """Add to the scores of each head what a table [distances, heads] has for the distance, as Swin does."""
    query, key, value = (layer(x).unflatten(-1, (3, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    steps = torch.arange(x.shape[1])
    bias = m.table[(steps[:, None] - steps[None, :] + 4).flatten()].view(5, 5, -1).permute(2, 0, 1)
    scores = (query @ key.transpose(-2, -1) * 0.5 + bias).softmax(-1)
    return m.proj((scores @ value).transpose(1, 2).flatten(2))


def grouped_queries(m: Net, x: Tensor) -> Tensor:
    """Share each key and value between two heads by repeating them, as Llama does."""
    query = m.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
    key, value = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2).repeat_interleave(2, 1) for layer in (m.k, m.v))
    return m.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def shared_keys(m: Net, x: Tensor) -> Tensor:
    """Share keys and values by the operator's own switch."""
    query, key, value = (
        layer(x).unflatten(-1, (heads, -1)).transpose(1, 2) for layer, heads in ((m.q, 4), (m.k, 2), (m.v, 2))
    )
    return m.proj(F.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2).flatten(2))


def multi_query(m: Net, x: Tensor) -> Tensor:
    """Let all heads share one key and one value."""
    query = m.q(x).unflatten(-1, (3, -1)).transpose(1, 2)
    scores = (query @ m.k(x).unsqueeze(1).transpose(-2, -1) * 0.5).softmax(-1)
    return m.proj((scores @ m.v(x).unsqueeze(1)).transpose(1, 2).flatten(2))


def linear_attention(m: Net, x: Tensor) -> Tensor:
    """Multiply keys with values first: no softmax over tokens."""
    query, key, value = (layer(x).unflatten(-1, (3, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return m.proj((query.relu() @ (key.relu().transpose(-2, -1) @ value)).transpose(1, 2).flatten(2))


def channel_attention(m: Net, x: Tensor) -> Tensor:
    """Attend between channels instead of tokens (XCA, DaViT)."""
    query, key, value = (layer(x) for layer in (m.q, m.k, m.v))
    return m.proj(((query.transpose(1, 2) @ key / 8).softmax(-1) @ value.transpose(1, 2)).transpose(1, 2))


def outer_product(m: Net, x: Tensor) -> Tensor:
    """Pool products of two maps over pixels (bilinear CNN)."""
    left, right = m.a(x).flatten(2), m.b(x).flatten(2)
    return m.fc((left @ right.transpose(1, 2)).flatten(1))


def projections(**sizes: int) -> dict[str, nn.Module]:
    """Return linear layers on tokens of 12, by name and width."""
    return {name: nn.Linear(12, width) for name, width in sizes.items()}


def triple(function: object, **parameters: nn.Parameter) -> Net:
    """Return queries, keys and values of 3 heads of 4, and a projection to 7."""
    return Net(function, **projections(q=12, k=12, v=12), proj=nn.Linear(12, 7), **parameters)


PATTERNS = {
    "one head": Pattern(
        lambda: Net(single, stem=conv(3, 8), qkv=nn.Linear(8, 48), proj=nn.Linear(16, 8), fc=nn.Linear(8, 2)),
        {"stem": 8, "qkv": 16},
    ),
    "packed heads": Pattern(
        lambda: Net(packed, qkv=nn.Linear(12, 36), proj=nn.Linear(12, 7)),
        {"qkv": 4},
        shapes=TOKENS,
        rewritten="does not run",
    ),
    "packed heads leave whole": Pattern(
        lambda: Net(packed, qkv=nn.Linear(12, 36), proj=nn.Linear(12, 7)),
        {"qkv": 3},
        shapes=TOKENS,
        rewritten="does not run",
        options={"heads": True},
    ),
    "fused": Pattern(lambda: triple(fused), {"q": 4, "v": 4}, shapes=TOKENS, rewritten="outputs differ"),
    "fused, heads leave whole": Pattern(
        lambda: triple(fused), {"q": 3}, shapes=TOKENS, options={"heads": True}, rewritten="does not run"
    ),
    "causal with a stored bias": Pattern(
        lambda: triple(causal, table=nn.Parameter(torch.randn(3, 5, 5))),
        {"q": 4, "v": 4},
        shapes=TOKENS,
        rewritten="outputs differ",
        frozen=("aten.masked_fill in the network meets", "aten.scaled_dot_product_attention in the network meets"),
    ),
    "relative positions": Pattern(
        lambda: triple(relative, table=nn.Parameter(torch.randn(9, 3))),
        {"q": 4, "v": 4},
        shapes=TOKENS,
        frozen=("aten.add in the network meets a fixed tensor",),
    ),
    "relative positions, heads leave whole": Pattern(
        lambda: triple(relative, table=nn.Parameter(torch.randn(9, 3))),
        {"q": 3},
        shapes=TOKENS,
        options={"heads": True},
        rewritten="does not run",
    ),
    "queries in groups": Pattern(
        lambda: Net(grouped_queries, **projections(q=24, k=12, v=12), proj=nn.Linear(24, 7)),
        {"q": 6, "v": 6},
        shapes=TOKENS,
        rewritten="outputs differ",
    ),
    "queries in groups, heads leave whole": Pattern(
        lambda: Net(grouped_queries, **projections(q=24, k=12, v=12), proj=nn.Linear(24, 7)),
        {"q": 2},
        shapes=TOKENS,
        rewritten="outputs differ",
        options={"heads": True},
        again={"v": 6},  # one head of keys is left
    ),
    "keys shared by the operator": Pattern(
        lambda: Net(shared_keys, **projections(q=24, k=12, v=12), proj=nn.Linear(24, 7)),
        {"q": 6, "v": 6},
        shapes=TOKENS,
        rewritten="outputs differ",
    ),
    "more heads than dimensions": Pattern(
        lambda: Net(grouped_queries, **projections(q=16, k=8, v=8), proj=nn.Linear(16, 7)),
        {"q": 4, "v": 4},
        shapes=TOKENS,
        rewritten="outputs differ",
    ),
    "one key for all heads": Pattern(
        lambda: Net(multi_query, **projections(q=12, k=4, v=4), proj=nn.Linear(12, 7)),
        {"q": 4, "v": 4},
        shapes=TOKENS,
    ),
    "linear attention": Pattern(lambda: triple(linear_attention), {"q": 4, "v": 4}, shapes=TOKENS),
    "attention between channels": Pattern(
        lambda: triple(channel_attention), {"q": 12, "k": 12}, shapes=TOKENS, statistics=SOFTMAX
    ),
    "attention to another input": Pattern(
        lambda: Net2(
            lambda m, x, y: m.proj(F.scaled_dot_product_attention(m.q(x), m.k(y), m.v(y), scale=0.5)),
            **projections(q=8, k=8, v=6),
            proj=nn.Linear(6, 2),
        ),
        {"q": 8, "v": 6},
        shapes=((2, 5, 12), (2, 4, 12)),
    ),
    "outer product": Pattern(
        lambda: Net(outer_product, a=conv(3, 8), b=conv(3, 6), fc=nn.Linear(48, 2)),
        {"a": 8},
        frozen=("aten.flatten in the network merges channels with another dimension",),
        again={"b": 6},  # of two merged dimensions, the wider is free
    ),
    "einsum with a stored tensor": Pattern(
        lambda: Net(
            lambda m, x: torch.einsum("nchw,oc->nohw", m.a(x), m.w), a=conv(3, 8), w=nn.Parameter(torch.randn(2, 8))
        ),
        {"a": 8},
    ),
    "einsum attention": Pattern(
        lambda: triple(
            lambda m, x: m.proj(
                torch.einsum("nij,njd->nid", torch.einsum("nid,njd->nij", m.q(x), m.k(x)).softmax(-1), m.v(x))
            )
        ),
        {"q": 12, "v": 12},
        shapes=TOKENS,
    ),
    "einsum with dots": Pattern(
        lambda: Net(
            lambda m, x: torch.einsum("...c,co->...o", m.a(x), m.w),
            a=nn.Linear(12, 8),
            w=nn.Parameter(torch.randn(8, 2)),
        ),
        {},
        shapes=TOKENS,
        frozen=("aten.einsum in the network has no rule",),
        counted=False,
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", PATTERNS)
def test_attention(name: str) -> None:
    """Dimensions of heads leave from queries and keys, and from values; or whole heads."""
    check(PATTERNS[name])


def test_the_scale_of_the_original_stays() -> None:
    """With half of each head's dimensions, scores are still divided by the root of 4: worked out by hand."""
    net, example = triple(fused).eval(), (torch.randn(2, 5, 12),)
    _, _, pruned = halved(net, example)
    rows = {name: list(pruned.plan.keep[f"{name}.weight"][0]) for name in "qkv"}
    assert rows["q"] == rows["k"]
    query, key, value = (
        (example[0] @ layer.weight[rows[name]].T + layer.bias[rows[name]]).unflatten(-1, (3, 2)).transpose(1, 2)
        for name, layer in (("q", net.q), ("k", net.k), ("v", net.v))
    )
    mixed = ((query @ key.transpose(-2, -1)) / 2).softmax(-1) @ value
    expected = mixed.transpose(1, 2).flatten(2) @ net.proj.weight[:, rows["v"]].T + net.proj.bias
    assert torch.allclose(pruned.model(*example), expected, atol=1e-6)
