"""Names that the configuration shares with the methods of sparsity. Loads nothing."""

from __future__ import annotations

from typing import Literal

#: What decides which weights become zero.
SparsityMethod = Literal["magnitude", "random"]
#: How the density is divided among layers: the same in each, one ranking of all weights, or by Erdos-Renyi-Kernel.
SparsityScope = Literal["layer", "global", "erk"]
