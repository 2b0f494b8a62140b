"""Names that configurations share with the methods of low rank. Loads nothing."""

from __future__ import annotations

from typing import Literal

#: What stands in a layer's place: two layers by SVD; Kx1 then 1xK; KxK then 1x1; 1x1, KxK, 1x1.
FactorKind = Literal["svd", "spatial", "channel", "tucker"]
#: How convolutions larger than 1x1 are factorised; `auto` takes for each layer what costs least for its error.
MethodName = Literal["auto", "svd", "spatial", "channel", "tucker"]
#: What ranks are chosen by: the share of it that is left, or (energy) the share of each layer's output that is kept.
BudgetName = Literal["macs", "parameters", "energy", "latency"]
