"""A file's nodes without a file, and a device that times them by a known law: no clock."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from pipeline.compress.pruning.graph import Axis
from pipeline.compress.pruning.state import NetworkState
from pipeline.pricing.nodes import FileNode


@dataclass(frozen=True)
class Probe:
    """One measured state."""

    state: NetworkState
    log_ratio: float
    error: float


def fixed(size: int) -> Axis:
    """Return a size that no width changes."""
    return Axis(size, {})


def of(group: str) -> Axis:
    """Return the size that is a group's width."""
    return Axis(0, {group: 1})


def convolution(
    name: str, reads: str, writes: str, side: int, *, kernel: int = 3, depthwise: bool = False, block: str = ""
) -> FileNode:
    """Return an int8 convolution from the channels of one group to those of another, on side x side maps."""
    weight = (of(writes), fixed(1) if depthwise else of(reads), fixed(kernel), fixed(kernel))
    return FileNode(
        name,
        "Conv",
        ((fixed(1), of(reads), fixed(side), fixed(side)), weight),
        ((fixed(1), of(writes), fixed(side), fixed(side)),),
        frozenset({1}),
        {"strides": [1, 1], "group": 64 if depthwise else 1},
        frozenset({block} if block else ()),
        integers=True,
    )


def addition(name: str, group: str, side: int, block: str) -> FileNode:
    """Return the sum that ends a residual block."""
    shape = (fixed(1), of(group), fixed(side), fixed(side))
    return FileNode(name, "Add", (shape, shape), (shape,), blocks=frozenset({block}))


def residual_file(stages: int = 3, blocks: int = 3) -> tuple[tuple[FileNode, ...], dict[str, int]]:
    """Return a residual network: a stream for each stage, and on it blocks of two convolutions with their own group."""
    nodes, groups = [], {"stream0": 16}
    image = tuple(map(fixed, (1, 1, 32, 32)))
    nodes.append(
        FileNode(
            "stem",
            "Conv",
            (image, (of("stream0"), fixed(1), fixed(3), fixed(3))),
            ((fixed(1), of("stream0"), fixed(32), fixed(32)),),
            frozenset({1}),
            integers=True,
        )
    )
    for stage in range(stages):
        stream, width, side = f"stream{stage}", 16 * 2**stage, 32 // 2**stage
        if stage:
            groups[stream] = width
            nodes.append(convolution(f"down{stage}", f"stream{stage - 1}", stream, side, kernel=1))
        for index in range(blocks):
            name = f"block{stage}.{index}"
            groups[name] = width
            nodes.append(convolution(f"{name}.conv1", stream, name, side, block=name))
            nodes.append(convolution(f"{name}.conv2", name, stream, side, block=name))
            nodes.append(addition(f"{name}.add", stream, side, name))
    return tuple(nodes), groups


class Device:
    """Times a file by a law of its own: calls, multiplications and moved values of sizes rounded up to a granule.

    Convolutions whose outputs are no multiple of `edge` channels take longer for every place.
    """

    def __init__(self, nodes: tuple[FileNode, ...], groups: dict[str, int], granule: int = 8, edge: int = 1) -> None:
        self.nodes, self.groups, self.granule, self.edge = nodes, groups, granule, edge
        self.speeds = np.random.default_rng(5).uniform(0.7, 1.4, len(nodes))

    def ms(self, state: NetworkState) -> float:
        """Return the milliseconds of a state."""
        return 0.03 + sum(self.node_ms(state).values())

    def node_ms(self, state: NetworkState) -> dict[str, float]:
        """Return the milliseconds of each node that is left."""
        widths = {**self.groups, **state.widths}
        times = {}
        for node, speed in zip(self.nodes, self.speeds, strict=True):
            if not node.blocks & state.dropped:
                sizes = [[self._size(axis, widths) for axis in shape] for shape in (*node.inputs, *node.outputs)]
                moved = (prod(sizes[0]) + prod(sizes[-1])) / 4e6
                macs = prod(sizes[1]) * prod(sizes[-1][2:]) / 4e7 if node.constant else 0
                ragged = sizes[-1][1] % self.edge != 0 and node.operator == "Conv"
                edge = prod(sizes[-1][2:]) * 6e-5 if ragged else 0
                times[node.name] = float(speed * (0.006 + moved + macs + edge))
        return times

    def _size(self, axis: Axis, widths: dict[str, int]) -> int:
        size = axis.fixed + sum(int(count) * widths[group] for group, count in axis.per_class.items())
        return self.granule * ceil(size / self.granule) if axis.per_class else size

    def probes(self, states: list[NetworkState], noise: float, drift: float = 0.0) -> list[Probe]:
        """Return ratios to the whole file; from the first to the last state the device gets slower by `drift`."""
        generator, whole = np.random.default_rng(3), self.ms(NetworkState())
        slower = np.linspace(0, drift, len(states))
        return [
            Probe(state, float(np.log(self.ms(state) / whole) + generator.normal(0, noise) + late), max(noise, 1e-3))
            for state, late in zip(states, slower, strict=True)
        ]


def drawn_states(groups: dict[str, int], blocks: list[str], count: int, step: int = 1) -> list[NetworkState]:
    """Return random states: widths from a quarter on, in steps, and 15 % of the blocks gone."""
    generator = np.random.default_rng(1)
    return [
        NetworkState(
            {
                group: int(step * generator.integers(max(1, width // 4 // step), width // step + 1))
                for group, width in groups.items()
            },
            frozenset(block for block in blocks if generator.random() < 0.15),
        )
        for _ in range(count)
    ]
