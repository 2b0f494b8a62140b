"""How a recipe says which weights share values, how many, and whether their codebooks are trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from pipeline.compress.sharing.names import CentroidGradient, CentroidStart, CodebookScope, GridChoice
from pipeline.core.artifact import FrozenModel
from pipeline.network.training_config import TrainingConfig


class ShareSchedule(TrainingConfig):
    """Training of the codebooks; what shares no values, such as biases and norms, is trained beside them."""

    @field_validator("epochs")
    @classmethod
    def _trains(cls, value: int) -> int:
        if value < 1:
            raise ValueError("found 0, allowed: 1 or more; for codebooks as k-means finds them leave schedule away")
        return value


class ShareConfig(FrozenModel):
    """How many values the weights of a layer take, which these may be, and whether they are trained."""

    clusters: Annotated[int, Field(ge=2, le=4096)] = Field(
        default=16, description="Values in a codebook at most, that of zeros among them: 16 take 4 bits, 32 take 5."
    )
    scope: CodebookScope = Field(
        default="layer", description="One codebook for each layer, or one for each output channel, which takes more."
    )
    grid: GridChoice = Field(
        default="auto",
        description="Values that a codebook may have: any (float), or those of weights in 8 bits (int8) or 7 (int7) "
        "with a scale for each output channel, so that the quantized file has as few; int8-products and int7-products "
        "are for files that quantize linear layers alone: convolutions may have any. `auto`: as the later stages make "
        "them.",
    )
    start: CentroidStart = Field(
        default="linear",
        description="Where k-means begins: evenly between smallest and largest weight (linear), which keeps values for "
        "the few large ones; at even quantiles (density); or at weights drawn by distance (kmeans++).",
    )
    gradient: CentroidGradient = Field(
        default="sum",
        description="What moves a value when the network is trained, here and in every later stage: the sum of the "
        "gradients of its weights (sum, Han et al. 2016), or their mean, which suits the rates of single weights with "
        "sgd. With adamw both move alike.",
    )
    keep: tuple[str, ...] = Field(
        default=(),
        description="Layers whose weights share nothing, by qualified name; patterns such as layer4.* are allowed.",
    )
    schedule: ShareSchedule | None = Field(
        default=None, description="Train the codebooks. Absent: they stay as k-means finds them."
    )
