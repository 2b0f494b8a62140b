"""Names that configurations share with the methods of pruning and training. Loads nothing."""

from __future__ import annotations

from typing import Literal

AllocationName = Literal["uniform", "global", "isomorphic", "sensitivity", "rates", "knapsack"]
OptimizerName = Literal["adamw", "sgd"]
#: How the learning rate runs over a training.
RateSchedule = Literal["cosine", "constant", "rewind", "one_cycle"]
#: How much each removal of a schedule takes: the same fraction of what it finds, or the same amount.
ScheduleShape = Literal["geometric", "linear"]
#: Whether channels may leave over which the network takes statistics.
StatisticsRule = Literal["allow", "freeze"]
