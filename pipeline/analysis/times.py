"""Where a file's time goes, node by node, by the runtime's own profiler.

Profiling costs time itself, small nodes most, and the nodes' times do not add up to a latency: what can be told are
shares. A runtime runs other nodes than the file has; a kernel that computes several of them counts for the one that
multiplies, else for the first. What the runtime added (conversions of layout, of type) keeps the runtime's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.core.runtimes import FORMS, RUNTIMES, form_of, load_reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.analysis.feeds import Feed
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


def node_times(file: Path, runtime: Runtime, feed: Feed, *, runs: int = 50, threads: int = 1) -> NodeTimes:
    """Profile `runs` inferences of a file on the same inputs, all optimisations on.

    Raises:
        InputError: the runtime cannot read the file, or has no profiler here.
    """
    facts = RUNTIMES[runtime]
    if not facts.profiler or (form_of(file) or "onnx") not in facts.reads:
        allowed = "; ".join(
            f"{name} for {' and '.join(FORMS[form].suffix for form in each.reads)}"
            for name, each in RUNTIMES.items()
            if each.profiler
        )
        raise InputError(f"{file}: {runtime} cannot profile it; allowed: {allowed}")
    times: NodeTimes = load_reference(facts.profiler).profile(file, feed, runs=runs, threads=threads)
    return times
