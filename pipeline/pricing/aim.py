"""The time that a network is to be compressed to, and in what kind of file that time is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.results.latency_target import AskedLatency

if TYPE_CHECKING:
    from pipeline.core.file_precision import FilePrecision
    from pipeline.core.stage import Target

#: What may be taken from a network: channels of a group, whole residual blocks, whole attention heads, pixels of its
#: images.
Move = Literal["channels", "blocks", "heads", "resolution"]


@dataclass(frozen=True)
class LatencyAim:
    """A latency to reach.

    Attributes:
        factor: of the time of the unpruned network's file in `file`'s precision; None where a time was asked for.
        milliseconds: of one inference; None where a factor was asked for.
        file: the precision of the file that ships, and what else of it its time depends on.
        moves: what may be taken from the network, each once.
    """

    factor: float | None
    milliseconds: float | None
    file: FilePrecision
    moves: tuple[Move, ...]

    def budget_ms(self, whole_ms: float) -> float:
        """Return the milliseconds that are allowed where the unpruned network's file takes `whole_ms`."""
        return whole_ms * self.factor if self.milliseconds is None and self.factor else self.milliseconds or 0.0

    def terms(self, target: Target) -> dict[str, Any]:
        """Return the fields of a `LatencyTarget` that say what was asked for, and of what file where."""
        return {
            "runtime": target.runtime,
            "device": target.device,
            "threads": target.threads,
            "precision": str(self.file),
            "asked": AskedLatency(factor=self.factor, milliseconds=self.milliseconds),
        }
