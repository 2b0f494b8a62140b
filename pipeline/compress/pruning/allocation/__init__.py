"""Allocation: how many channels each group keeps. Which ones it keeps is decided by their scores alone.

An `Allocation` spreads the loss over the groups: evenly, by one ranking of all channels, by rankings among groups of
the same structure, or in proportion to given rates. It is asked for a fraction of the channels (`at_ratio`) or for a
cost (`at_cost`): operations, parameters, bytes, or whatever else a `pipeline.compress.pruning.cost.CostModel` knows.
A `KnapsackAllocation` loses the least score for a cost; `least_damage` also chooses among residual blocks.
`Constraints` hold for all of them.
"""

from pipeline.compress.pruning.allocation.candidates import JudgedAllocation, judged_candidates
from pipeline.compress.pruning.allocation.constraints import Constraints, GroupConstraint
from pipeline.compress.pruning.allocation.damage import Choices, damage_curves
from pipeline.compress.pruning.allocation.knapsack import KnapsackAllocation, Plan, least_damage
from pipeline.compress.pruning.allocation.ranking import (
    global_allocation,
    isomorphic_allocation,
    uniform_allocation,
    uniform_kept,
)
from pipeline.compress.pruning.allocation.rates import by_pattern, explicit_rates, proportional_allocation
from pipeline.compress.pruning.allocation.schedule import remaining_schedule, step_ratios
from pipeline.compress.pruning.allocation.sensitivity import ratio_limits, sensitivity
from pipeline.compress.pruning.allocation.target import Widths
from pipeline.compress.pruning.allocation.widths import Allocation, Kept, ReachedCost, best_classes

__all__ = [
    "Allocation",
    "Choices",
    "Constraints",
    "GroupConstraint",
    "JudgedAllocation",
    "Kept",
    "KnapsackAllocation",
    "Plan",
    "ReachedCost",
    "Widths",
    "best_classes",
    "by_pattern",
    "damage_curves",
    "explicit_rates",
    "global_allocation",
    "isomorphic_allocation",
    "judged_candidates",
    "least_damage",
    "proportional_allocation",
    "ratio_limits",
    "remaining_schedule",
    "sensitivity",
    "step_ratios",
    "uniform_allocation",
    "uniform_kept",
]
