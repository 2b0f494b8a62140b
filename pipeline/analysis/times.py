"""Profiled times of a file's nodes, whatever runtime took them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.stage import Runtime
    from pipeline.results.file_inspection import Precision

#: Inferences before times are kept: the first ones allocate memory and choose kernels.
WARM_UP = 5


@dataclass(frozen=True)
class NodeTime:
    """One kernel of the runtime.

    `name` is the node of the file that it counts for, or the runtime's own name with `own` False. `nodes` are all nodes
    of the file that it computes. `operator` and `precision` are what the runtime calls it and computes in.
    """

    name: str
    operator: str
    nanoseconds: float
    nodes: tuple[str, ...]
    precision: Precision | None
    own: bool


@dataclass(frozen=True)
class NodeTimes:
    """All kernels of one inference, in the order of computation."""

    runtime: Runtime
    version: str
    threads: int
    runs: int
    kernels: tuple[NodeTime, ...]

    @property
    def nanoseconds(self) -> float:
        """The sum over all kernels."""
        return sum(kernel.nanoseconds for kernel in self.kernels)


def middle_mean(times: Sequence[float]) -> float:
    """Return the mean of the middle half of some times: interruptions fall out, and whole microseconds average out."""
    ordered = sorted(times)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)
