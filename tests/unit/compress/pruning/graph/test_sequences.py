"""Embeddings, tied tables and recurrent layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.unit.compress.pruning.networks import Net, Net2, Pattern, check, conv

TOKENS = ((2, 6),)
STEPS = ((2, 6, 5),)


def recurrent(layer: nn.RNNBase, width: int) -> Net:
    """Return a linear layer, a recurrent one, and a linear layer on its outputs."""
    return Net(lambda m, x: m.head(m.cell(m.stem(x))[0]), stem=nn.Linear(5, 8), cell=layer, head=nn.Linear(width, 3))


def last_state(m: Net, x: Tensor) -> Tensor:
    """Classify the last hidden and cell states of both directions."""
    _, (hidden, memory) = m.cell(x)
    return m.head(torch.cat([hidden[0], hidden[1]], -1)) + m.other(memory.sum(0))


def learned_start(m: Net, x: Tensor) -> Tensor:
    """Start from a stored state."""
    start = m.start.expand(-1, x.shape[0], -1).contiguous()
    return m.head(m.cell(x, start)[0])


def tied_table() -> Net:
    """Return a language model whose classifier is its table."""
    net = Net(
        lambda m, x: m.head(m.down(m.up(m.table(x)).relu())),
        table=nn.Embedding(11, 8),
        up=nn.Linear(8, 12),
        down=nn.Linear(12, 8),
        head=nn.Linear(8, 11, bias=False),
    )
    net.head.weight = net.table.weight
    return net


PATTERNS = {
    "table": Pattern(
        lambda: Net(lambda m, x: m.fc(m.table(x).mean(1)), table=nn.Embedding(11, 8), fc=nn.Linear(8, 3)),
        {"table": 8},
        shapes=TOKENS,
        entries=11,
    ),
    "table with padding": Pattern(
        lambda: Net(lambda m, x: m.fc(m.table(x)), table=nn.Embedding(11, 8, padding_idx=0), fc=nn.Linear(8, 3)),
        {"table": 8},
        shapes=TOKENS,
        entries=11,
    ),
    "positions added": Pattern(
        lambda: Net(
            lambda m, x: m.fc(m.table(x) + m.place(torch.arange(x.shape[1]))),
            table=nn.Embedding(11, 8),
            place=nn.Embedding(6, 8),
            fc=nn.Linear(8, 3),
        ),
        {"table": 8},
        shapes=TOKENS,
        entries=11,
    ),
    "tied to the classifier": Pattern(
        tied_table,
        {"table": 8, "up": 12},
        shapes=TOKENS,
        entries=11,
    ),
    "tied by a function": Pattern(
        lambda: Net(lambda m, x: F.linear(m.table(x).relu(), m.table.weight), table=nn.Embedding(11, 8)),
        {"table": 8},
        shapes=TOKENS,
        entries=11,
    ),
    "bag": Pattern(
        lambda: Net(lambda m, x: m.fc(m.table(x)), table=nn.EmbeddingBag(11, 8, mode="mean"), fc=nn.Linear(8, 3)),
        {},
        shapes=TOKENS,
        entries=11,
        frozen=("aten.embedding_bag in table has no rule", "aten.linear in fc meets a fixed tensor"),
    ),
    "LSTM": Pattern(lambda: recurrent(nn.LSTM(8, 6, batch_first=True), 6), {"stem": 8, "cell": 6}, shapes=STEPS),
    "LSTM of two layers and directions": Pattern(
        lambda: recurrent(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True, dropout=0.1), 12),
        {"stem": 8, "cell": 6},
        shapes=STEPS,
    ),
    "LSTM without bias, steps first": Pattern(
        lambda: recurrent(nn.LSTM(8, 6, bias=False), 6), {"stem": 8, "cell": 6}, shapes=STEPS
    ),
    "LSTM with a projection": Pattern(
        lambda: recurrent(nn.LSTM(8, 6, proj_size=4, batch_first=True), 4),
        {},
        shapes=STEPS,
        frozen=("aten.lstm in cell has no rule", "aten.linear in head meets a fixed tensor"),
        counted=False,
    ),
    "last states": Pattern(
        lambda: Net(
            last_state,
            cell=nn.LSTM(5, 6, batch_first=True, bidirectional=True),
            head=nn.Linear(12, 3),
            other=nn.Linear(6, 3),
        ),
        {"cell": 6},
        shapes=STEPS,
    ),
    "GRU": Pattern(lambda: recurrent(nn.GRU(8, 6, batch_first=True), 6), {"stem": 8, "cell": 6}, shapes=STEPS),
    "GRU of two directions": Pattern(
        lambda: recurrent(nn.GRU(8, 6, batch_first=True, bidirectional=True), 12),
        {"stem": 8, "cell": 6},
        shapes=STEPS,
    ),
    "plain recurrent layers": Pattern(
        lambda: recurrent(nn.RNN(8, 6, 2, batch_first=True), 6), {"stem": 8, "cell": 6}, shapes=STEPS
    ),
    "recurrent layer with a stored start": Pattern(
        lambda: Net(
            learned_start,
            start=nn.Parameter(torch.randn(1, 1, 6)),
            cell=nn.GRU(5, 6, batch_first=True),
            head=nn.Linear(6, 3),
        ),
        {"start": 6},
        shapes=STEPS,
    ),
    "encoder and decoder": Pattern(
        lambda: Net2(
            lambda m, x, y: m.head(m.decode(y, m.encode(x)[1])[0]),
            encode=nn.GRU(5, 6, batch_first=True),
            decode=nn.GRU(4, 6, batch_first=True),
            head=nn.Linear(6, 2),
        ),
        {"encode": 6},
        shapes=((2, 6, 5), (2, 3, 4)),
    ),
    "recurrent layer on a map": Pattern(
        lambda: Net(
            lambda m, x: m.head(m.cell(m.a(x).mean(2).transpose(1, 2))[0][:, -1]),
            a=conv(3, 8),
            cell=nn.LSTM(8, 6, batch_first=True),
            head=nn.Linear(6, 2),
        ),
        {"a": 8, "cell": 6},
        shapes=((2, 3, 6, 6),),
    ),
    "single cell": Pattern(
        lambda: Net(lambda m, x: m.head(m.cell(x)[0]), cell=nn.LSTMCell(5, 6), head=nn.Linear(6, 3)),
        {"cell": 6},
        shapes=((2, 5),),
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", PATTERNS)
def test_sequences(name: str) -> None:
    """Features of tables and units of recurrent layers leave exactly; entries of tables stay."""
    check(PATTERNS[name])
