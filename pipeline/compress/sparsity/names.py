"""Names that the configuration shares with the methods of sparsity. Loads nothing."""

from __future__ import annotations

from typing import Literal

#: What decides at once which weights become zero.
OneShotMethod = Literal["magnitude", "random", "obd", "obs", "block_fisher"]
#: What decides it, at once or while the network trains.
SparsityMethod = Literal[OneShotMethod, "dns", "rigl", "movement"]
#: How the density is divided among layers: the same in each, one ranking of all weights, or by Erdos-Renyi-Kernel.
SparsityScope = Literal["layer", "global", "erk"]
