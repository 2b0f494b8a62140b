"""Rules for recurrent networks: whole layers of LSTM, GRU and plain units, and their cells, one step at a time.

The table of all rules is in graph_rules.py.
"""

from __future__ import annotations

from pipeline.compress.pruning.graph.labels import Label, Labels, Rule, Site, unknown

#: Stored tensors of one layer and direction of a recurrent network: two weights and two biases.
_RECURRENT_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_CELL_GATES = {f"{name}_cell": gates for name, gates in _RECURRENT_GATES.items()}


def recurrent(site: Site) -> list[Labels]:
    """Run LSTM, GRU or plain recurrent layers: the same units leave every layer and direction.

    A unit whose weights and biases are zero stays at zero from a state of zero, so its removal is exact.
    """
    gates = _RECURRENT_GATES[site.operator.rpartition(".")[2]]
    value, weights = site.value("input"), site.values("params")
    directions = 2 if site.arguments["bidirectional"] else 1
    per_cell = 4 if site.arguments["has_biases"] else 2
    cells = [weights[start : start + per_cell] for start in range(0, len(weights), per_cell)]
    if len(cells) != site.arguments["num_layers"] * directions or value.shape == ():
        return unknown(site)
    units = cells[0][1].shape[1]
    hidden = site.join(*(tensor.labels[-1] for tensor in site.values("hx")), *(cell[1].labels[1] for cell in cells))
    for index, cell in enumerate(cells):
        for tensor in (cell[0], *cell[1:]):
            site.tie(tensor.labels[0], (gates, units), axis=0)
            site.join(hidden, None if tensor.labels[0] is None else tensor.labels[0][:units])
        if hidden is not None:
            site.contract(hidden, cell[1].labels[1], stored=cell[1].stored)
        given = value.labels[-1] if index < directions else _both(hidden, directions)
        site.contract(given, cell[0].labels[1], stored=cell[0].stored)
        steps = [(size, None) for size in value.shape[:-1]]
        for weight in cell[:2]:
            site.notes.products.append([*steps, *zip(weight.shape, weight.labels, strict=True)])
    states: list[Labels] = [(None,) * (len(shape) - 1) + (hidden,) for shape in site.shapes[1:]]
    return [(*value.labels[:-1], _both(hidden, directions)), *states]


def _recurrent_cell(site: Site) -> list[Labels]:
    """Run one step of an LSTM, GRU or plain recurrent cell: a unit leaves state, gates and both weights."""
    gates = _CELL_GATES[site.operator.rpartition(".")[2]]
    value, states = site.value("input"), site.values("hx")
    inner, across = site.value("w_ih"), site.value("w_hh")
    units = across.shape[1]
    hidden = site.join(*(state.labels[-1] for state in states), across.labels[1])
    for tensor in site.values("w_ih", "w_hh", "b_ih", "b_hh"):
        site.tie(tensor.labels[0], (gates, units), axis=0)
        site.join(hidden, None if tensor.labels[0] is None else tensor.labels[0][:units])
    site.contract(hidden, across.labels[1], stored=across.stored)
    site.contract(value.labels[-1], inner.labels[1], stored=inner.stored)
    for weight in (inner, across):
        steps = [(size, None) for size in value.shape[:-1]]
        site.notes.products.append([*steps, *zip(weight.shape, weight.labels, strict=True)])
    return [(*value.labels[:-1], hidden) for _ in site.shapes]


def _both(label: Label, directions: int) -> Label:
    """Return the label of the outputs of all directions, one after another."""
    return None if label is None else label.reshape(1, -1).repeat(directions, axis=0).ravel()


#: Operators of this file, by rule; names as in graph_rules.py.
RECURRENT_RULES: tuple[tuple[Rule, str], ...] = (
    (recurrent, "lstm.input gru.input rnn_tanh.input rnn_relu.input"),
    (_recurrent_cell, "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
)
