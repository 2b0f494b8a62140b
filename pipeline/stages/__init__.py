"""The stages of a recipe: one file each, and `AnyStage`, the only list of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.stages.bundle import Bundle
from pipeline.stages.export import Export
from pipeline.stages.finetune import Finetune
from pipeline.stages.measure import Measure
from pipeline.stages.prune import Prune
from pipeline.stages.quantize import Quantize
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from pipeline.stages.simplify import Simplify

AnyStage = Annotated[
    Prune | Finetune | Export | Simplify | Quantize | QuantizeAwareFinetune | Measure | Bundle,
    Field(discriminator="kind"),
]
