"""Names of criteria and normalisations, for configurations: this file loads no heavy library."""

from __future__ import annotations

from typing import Literal

#: The rows of the table in criteria.py.
CriterionName = Literal[
    "l1",
    "l2",
    "group_l2",
    "fpgm",
    "bn_scale",
    "taylor",
    "taylor_gates",
    "obd",
    "group_fisher",
    "hrank",
    "chip",
    "thinet",
    "apoz",
    "mean_activation",
    "random",
]
#: What `normalise.normalised` knows.
Normalisation = Literal["none", "mean", "max", "l2", "rank"]
