"""The stages of a recipe: one file each, and `AnyStage`, the only list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Field

from pipeline.stages.bundle import Bundle
from pipeline.stages.export import Export
from pipeline.stages.factorize import Factorize
from pipeline.stages.finetune import Finetune
from pipeline.stages.measure import Measure
from pipeline.stages.prune import Prune
from pipeline.stages.prune.priced_stage import priced_stage
from pipeline.stages.quantize import Quantize
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from pipeline.stages.share import Share
from pipeline.stages.simplify import Simplify
from pipeline.stages.sparsify import Sparsify

if TYPE_CHECKING:
    from pipeline.core.stage import Stage

__all__ = ["STAGES", "AnyStage", "Prune", "priced_stage"]

AnyStage = Annotated[
    Prune
    | Factorize
    | Sparsify
    | Share
    | Finetune
    | Export
    | Simplify
    | Quantize
    | QuantizeAwareFinetune
    | Measure
    | Bundle,
    Field(discriminator="kind"),
]
#: The stages by the `kind` of a recipe.
STAGES: dict[str, type[Stage]] = {
    get_args(each.model_fields["kind"].annotation)[0]: each for each in get_args(get_args(AnyStage)[0])
}
