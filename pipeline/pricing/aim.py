"""The time that a network is to be compressed to, and in what kind of file that time is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.core.file_precision import FilePrecision

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
