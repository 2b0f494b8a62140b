"""What a search decides about a network: how wide its groups are, and which residual blocks have left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class NetworkState:
    """What is left of a network.

    `widths` are the kept channels (or heads) of the groups that are narrower than whole, `dropped` the names of the
    residual blocks that are gone (`depth.residual_blocks`). Groups that lie in such a block alone cost nothing.
    """

    widths: Mapping[str, int] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
