"""What a factorisation did, as plain JSON for the run's record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.compress.factorization.sites import count_reasons

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.compress.factorization.names import BudgetName
    from pipeline.compress.factorization.options import Option
    from pipeline.compress.factorization.sites import Site
    from pipeline.compress.pruning.cost import NetworkCost
    from pipeline.stages.factorize.adoption import LayerTime


def totals(before: NetworkCost, after: NetworkCost, target: tuple[BudgetName, float]) -> dict[str, Any]:
    """Return operations and parameters of the network, and and what was asked for; of a cost what is left."""
    name, asked = target
    counted = {"macs", "parameters"}
    reached = {"reached": getattr(after, name) / getattr(before, name)} if name in counted else {}
    return {
        "macs": {"before": before.macs, "after": after.macs},
        "parameters": {"before": before.parameters, "after": after.parameters},
        **({"target": {"of": name, "asked": asked, **reached}} if name != "latency" else {}),
    }


def factor_record(site: Site, option: Option, error: float, time: LayerTime | None) -> dict[str, Any]:
    """Return one layer's kind, ranks, cost and relative output error; where it was timed, the ratio of the files."""
    return {
        **option.factor.as_json(),
        "error": error,
        "macs": {"before": site.cost.macs, "after": option.macs},
        "parameters": {"before": site.cost.parameters, "after": option.parameters},
        **({"time": time.text} if time else {}),
    }


def left_out(left: Mapping[str, str]) -> str:
    """Return why layers were not factorised, with how many each reason holds for."""
    return count_reasons(left)
