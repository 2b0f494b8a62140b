"""The stage of a recipe whose prices are asked for, or one with all defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.cpu import cpu_flags
from pipeline.core.errors import InputError
from pipeline.stages.prune import Prune
from pipeline.stages.prune.aims import latency_conflicts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.core.stage import Stage

#: A stage with all defaults; which latency it asks for decides nothing here.
_DEFAULT = {"kind": "prune", "target": {"latency": "0.5x"}}


def priced_stage(stages: Sequence[Stage], asked: Mapping[str, object], note: Callable[[str], None]) -> Prune:
    """Return a recipe's first stage with a latency, else one with all defaults, as the stages behind it decide.

    Args:
        stages: of the recipe; none for a network alone.
        asked: keys of the stage that win over the recipe's; None leaves one as it is.
        note: is told what will not be priced.

    Raises:
        InputError: what is asked does not go together with the stage.
    """
    here = [stage.resolved(cpu_flags()) for stage in stages]
    found = next(((at, each) for at, each in enumerate(here) if isinstance(each, Prune) and each.has_latency), None)
    at, stage = found or (-1, Prune.model_validate(_DEFAULT))
    if before := [number for number, each in enumerate(here[: max(at, 0)]) if isinstance(each, Prune)]:
        note(
            f"stages.{at} gets what stages.{', stages.'.join(map(str, before))} leave of the network: what is priced "
            "is the whole network that the recipe starts from"
        )
    stage = stage.model_copy(update={name: value for name, value in asked.items() if value is not None})
    if fault := next(latency_conflicts(stage), ""):
        raise InputError(fault)
    return stage.following(here[at + 1 :])
