"""The structural plan of a stored network: what each edit changes in a network that has just been built.

| key of an edit | what it says                                                    |
|----------------|-----------------------------------------------------------------|
| `keep`         | indices that stay, by tensor and dimension (`PrunePlan`)        |
| `factor`       | layers that legs stand in for, with kind and ranks (`Factor`)   |
| `merge`        | factorised layers that are one layer again                      |

Every edit has `keep`, which may be empty; a stage may add what it likes beside these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.compress.factorization.legs import Factor
from pipeline.compress.factorization.replacing import place_factors, place_merged
from pipeline.compress.pruning.surgery import PrunePlan, apply_plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

#: What an edit that does not fit its network raises.
UNFIT = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)


def apply_edit(model: nn.Module, edit: Mapping[str, Any]) -> None:
    """Change a network in place as an edit says. Raises InputError or one of UNFIT where it does not fit."""
    place_merged(model, edit.get("merge", ()))
    apply_plan(model, PrunePlan.from_json(edit["keep"]))
    place_factors(model, {name: Factor.from_json(factor) for name, factor in edit.get("factor", {}).items()})


def factored_names(edits: Iterable[Mapping[str, Any]], before: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the layers that are factorised after these edits, in order; `before` those that were before them."""
    found = dict.fromkeys(before)
    for edit in edits:
        for name in edit.get("merge", ()):
            found.pop(name, None)
        found |= dict.fromkeys(edit.get("factor", {}))
    return tuple(found)
