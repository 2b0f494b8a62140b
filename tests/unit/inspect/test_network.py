"""An inspection counts what its channel graph says: on a graph made by hand, and on small networks of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph import Axis, ChannelGraph, Contraction, Frozen, Group, Member
from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.inspect.network import Structure, inspect_network, inspection_of
from pipeline.results.inspection import Inspection, Layer, Part

SHAPES = {
    "stem.weight": (4, 3, 3, 3),
    "bn.weight": (4,),
    "body.weight": (6, 4, 1, 1),
    "proj.weight": (4, 6, 1, 1),
    "fc.weight": (10, 4),
}
KINDS = {"stem": "Conv2d 3x3", "bn": "BatchNorm2d", "body": "Conv2d 1x1", "proj": "Conv2d 1x1", "fc": "Linear"}
IMAGE = TensorSpec(name="input", shape=(1, 3, 8, 8))


def member(tensor: str, dim: int, *, consumes: bool = False) -> Member:
    """Return all positions of one dimension."""
    return Member(tensor, dim, np.arange(SHAPES[tensor][dim])[:, None], consumes)


def residual(frozen: tuple[Frozen, ...] = ()) -> ChannelGraph:
    """Return stem -> bn -> body -> proj (+ stem) -> fc on images of 8x8 pixels."""
    made = (member("stem.weight", 0), member("bn.weight", 0), member("proj.weight", 0))
    read = (member("body.weight", 1, consumes=True), member("fc.weight", 1, consumes=True))
    stem, body = Axis(0, {"stem": 1}), Axis(0, {"body": 1})
    return ChannelGraph(
        groups=(
            Group("stem", 4, (*made, *read)),
            Group("body", 6, (member("body.weight", 0), member("proj.weight", 1, consumes=True))),
        ),
        frozen=(
            Frozen("stem.weight", 1, "input of the network", consumes=True),
            Frozen("fc.weight", 0, "output of the network", consumes=False),
            *frozen,
        ),
        shapes=SHAPES,
        aliases={},
        contractions=(
            Contraction("stem", 8 * 8 * 9, (stem, Axis(3, {}))),
            Contraction("body", 8 * 8, (body, stem)),
            Contraction("proj", 8 * 8, (stem, body)),
            Contraction("fc", 1, (Axis(10, {}), stem)),
        ),
    )


def inspected(graph: ChannelGraph) -> Inspection:
    """Inspect a graph whose tensors are parameters of the modules in KINDS."""
    owners = {tensor: tensor.partition(".")[0] for tensor in graph.shapes}
    structure = Structure(owners, KINDS, {}, frozenset(graph.shapes))
    return inspection_of(graph, structure, name="residual", inputs=(IMAGE,))


def layers_of(found: Inspection) -> dict[str, Layer]:
    """Return the layers by name."""
    return {layer.name: layer for layer in found.layers}


def channels(parts: tuple[Part, ...]) -> list[tuple[int, str | None]]:
    """Return channels and group of each part."""
    return [(part.channels, part.group) for part in parts]


def test_groups_own_parameters_and_macs() -> None:
    """Counted by hand: 576 * 12 + 64 * 24 + 64 * 24 + 40 MACs, of which half of body's channels save half of two."""
    found = inspected(residual())
    assert (found.parameters, found.macs, found.prunable_macs) == (200, 10024, 10024)
    stem, body = found.groups
    assert (stem.makers, stem.readers, stem.along) == (("stem", "proj"), ("body", "fc"), ("bn",))
    assert (stem.parameters, stem.macs, stem.saved_macs) == (200, 10024, 5012)
    assert (body.makers, body.readers, body.along) == (("body",), ("proj",), ())
    assert (body.parameters, body.macs, body.saved_macs) == (48, 3072, 1536)


def test_layers_stand_in_forward_order_with_both_sides() -> None:
    """Norms are not drawn; each layer has its share of the MACs and the groups that it reads and makes."""
    found = inspected(residual())
    assert [layer.name for layer in found.layers] == ["stem", "body", "proj", "fc"]
    assert [layer.macs for layer in found.layers] == [6912, 1536, 1536, 40]
    assert [layer.parameters for layer in found.layers] == [108, 24, 24, 40]
    stem, body, _, fc = found.layers
    assert (channels(stem.reads), channels(stem.makes)) == ([(3, None)], [(4, "stem")])
    assert (channels(body.reads), channels(body.makes)) == ([(4, "stem")], [(6, "body")])
    assert stem.reads[0].reason == "input of the network"
    assert fc.kept_whole
    assert found.layers_kept_whole == (fc,)


def test_concatenated_channels_keep_their_groups_apart() -> None:
    """A dimension of which a part is free shows that part first in its place, and the rest with its reason."""
    shapes = {"first.weight": (2, 3), "join.weight": (5, 6)}
    free = Member("join.weight", 1, np.array([[1, 2], [4, 5]]), consumes=True)
    graph = ChannelGraph(
        groups=(Group("first", 2, (Member("first.weight", 0, np.array([[0], [1]]), consumes=False), free)),),
        frozen=(Frozen("join.weight", 1, "input of the network", consumes=True),),
        shapes=shapes,
        aliases={},
        contractions=(Contraction("join", 1, (Axis(2, {"first": 2}), Axis(5, {}))),),
    )
    found = inspected(graph)
    assert channels(layers_of(found)["join"].reads) == [(4, "first"), (2, None)]
    assert (found.macs, found.prunable_macs) == (30, 20)


def test_group_of_one_channel_is_not_prunable() -> None:
    """Its last channel stays, so its MACs cannot go."""
    graph = ChannelGraph(
        groups=(Group("body", 1, (Member("body.weight", 0, np.arange(6)[None], consumes=False),)),),
        frozen=(),
        shapes=SHAPES,
        aliases={},
        contractions=(Contraction("body", 1, (Axis(0, {"body": 6}), Axis(4, {}))),),
    )
    found = inspected(graph)
    assert (found.macs, found.prunable_macs, found.groups[0].saved_macs) == (24, 0, 0)


def test_reasons_of_one_kind_are_told_once() -> None:
    """Operator and kind make the reason; the places that differ are listed, and so are operators without a rule."""
    reasons = (
        Frozen("stem.weight", 0, "aten.cumsum in the network has no rule (net.py:7)", consumes=False),
        Frozen("body.weight", 0, "aten.sort in body.0 picks channels", consumes=False),
        Frozen("proj.weight", 0, "aten.sort in body.1 picks channels", consumes=False),
        Frozen("bn.weight", 0, "not used in evaluation", consumes=False),
    )
    found = inspected(ChannelGraph((), (*residual().frozen, *reasons), SHAPES, {}, (Contraction("fc", 40, ()),)))
    told = {why.reason: (why.layers, why.places) for why in found.kept_whole}
    assert told == {
        "aten.cumsum has no rule": (("stem",), ("the network (net.py:7)",)),
        "aten.sort picks channels": (("body", "proj"), ("body.0", "body.1")),
        "output of the network": (("fc",), ()),
        "not used in evaluation": (("bn",), ()),
    }
    assert found.operators_without_rule == ("aten.cumsum",)
    assert len(found.layers_kept_whole) == 4


def test_inspection_survives_json() -> None:
    """What --json prints is the inspection."""
    found = inspected(residual())
    assert Inspection.model_validate_json(found.model_dump_json()) == found


class Mixed(nn.Module):
    """One image channel, depthwise and grouped convolutions, positions, a product of computed tensors, one output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.point = nn.Conv2d(16, 6, 1)
        self.positions = nn.Parameter(torch.zeros(1, 16, 6))
        self.one = nn.Linear(6, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, 1, 4, 4] to [N, 1]."""
        tokens = self.point(self.depthwise(self.stem(images)).relu()).flatten(2).transpose(1, 2) + self.positions
        return self.one((tokens @ tokens.transpose(1, 2) @ tokens).mean(1))


def test_every_kind_of_layer_has_its_sides() -> None:
    """Depthwise inputs leave with the outputs; positions make the channels of a token; single channels stay."""
    found = inspect_network(Mixed(), (TensorSpec(name="input", shape=(1, 1, 4, 4)),), "mixed")
    layers = layers_of(found)
    assert list(layers) == ["stem", "depthwise", "point", "positions", "(network)", "one"]
    assert channels(layers["stem"].reads) == [(1, None)]
    assert channels(layers["depthwise"].reads) == [(8, "stem")]
    assert channels(layers["depthwise"].makes) == [(16, "stem")]
    assert channels(layers["positions"].makes) == [(6, "point")]
    assert (layers["positions"].kind, layers["positions"].reads) == ("parameter", ())
    assert (layers["(network)"].kind, layers["(network)"].macs) == ("Mixed", 2 * 16 * 16 * 6)
    assert channels(layers["one"].makes) == [(1, None)]
    assert layers["depthwise"].kind == "Conv2d 3x3"
    assert found.macs == 16 * (8 * 9 + 16 * 9 + 16 * 6) + 2 * 16 * 16 * 6 + 6
    assert [why.layers for why in found.kept_whole] == [("one",)]


def test_table_of_an_attention_is_not_its_output() -> None:
    """A module that multiplies computed tensors and adds a table of its own makes no stored channels."""
    free = Frozen("attention.table", 0, "looks entries up", consumes=False)
    heads = Frozen("attention.table", 1, "meets a fixed position", consumes=False)
    products = (Contraction("attention", 9, (Axis(4, {}),)),)
    graph = ChannelGraph((), (free, heads), {"attention.table": (9, 2)}, {}, products)
    (layer,) = inspected(graph).layers
    assert (layer.macs, layer.reads, layer.makes, layer.kept_whole) == (36, (), (), False)


class Tied(nn.Module):
    """An embedding whose table is also the last linear layer, and a head that nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.hidden = nn.Linear(8, 8)
        self.words = nn.Linear(8, 20, bias=False)
        self.words.weight = self.table.weight
        self.unused = nn.Linear(3, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [N, T] to scores [N, T, 20]."""
        found: Tensor = self.words(self.table(tokens) + self.hidden(self.table(tokens)))
        return found


def test_shared_table_makes_what_the_other_layer_reads() -> None:
    """The table's parameters count once; it stands in the map as a table, and its linear layer reads the group."""
    found = inspect_network(Tied(), (TensorSpec(name="input", shape=(1, 5), dtype="int64"),), "tied")
    assert found.parameters == 20 * 8 + 8 * 8 + 8 + 3 * 4 + 4
    layers = layers_of(found)
    assert (channels(layers["table"].makes), layers["table"].reads) == ([(8, "table")], ())
    assert (channels(layers["words"].reads), channels(layers["words"].makes)) == ([(8, "table")], [(20, None)])
    (group,) = found.groups
    assert (group.makers, group.readers) == (("table", "hidden"), ("words", "hidden"))
    assert {"unused"} in [set(why.layers) for why in found.kept_whole]


def test_computed_weights_belong_to_their_layer() -> None:
    """Weight normalisation: the layer is drawn under its own name, and its factors are not called unused."""
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 1)), nn.Conv2d(4, 3, 1))
    found = inspect_network(network, (TensorSpec(name="input", shape=(1, 2, 4, 4)),), "normed")
    assert [(layer.name, layer.kind) for layer in found.layers] == [("0", "Conv2d 1x1"), ("1", "Conv2d 1x1")]
    assert [group.makers for group in found.groups] == [("0",)]
    assert [why.layers for why in found.kept_whole] == [("1",)]


def test_input_that_does_not_fit_is_named() -> None:
    """The message has the network, the shape that was tried, and what torch says."""
    with pytest.raises(InputError, match=r"mixed with input 3x4x4 \(does it fit the network\?\).*to have 1 channels"):
        inspect_network(Mixed(), (TensorSpec(name="input", shape=(1, 3, 4, 4)),), "mixed")
