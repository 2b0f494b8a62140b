"""How a recipe says that a network is quantized: shared by every stage that ends with an int8 file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.compress.quantization.names import Calibration, Scheme
from pipeline.core.artifact import FrozenModel
from pipeline.core.nearness import OnFar


class QuantizationConfig(FrozenModel):
    """Types, scales, and the images that the ranges of activations come from."""

    scheme: Literal["auto"] | Scheme = Field(
        default="auto",
        description="Types of activations and weights (u unsigned, s signed; `reduced`: weights in 7 bits). `auto` "
        "chooses the one that suits the CPU: u8s8 with VNNI, s8s8 on ARM, u8s8-reduced otherwise.",
    )
    per_channel: bool = Field(default=True, description="One scale per output channel instead of one per weight.")
    symmetric: bool = Field(
        default=False,
        description="Centre the ranges of activations on zero: slower, since ReLU can no longer be fused.",
    )
    calibration: Calibration = Field(
        default="percentile",
        description="How the ranges of activations are derived from the values that the images produce.",
    )
    percentile: Annotated[float, Field(gt=50, le=100)] = Field(
        default=99.99, description="Share of the values, in per cent, inside the range; for `calibration: percentile`."
    )
    images: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=128,
        description="Training images for calibration, drawn with the run's seed. `auto` doubles their number, starting "
        "at 32, until the ranges move by less than 2 %, up to 1024.",
    )
    keep: tuple[str, ...] = Field(
        default=(), description="Patterns of node names (`stem`, `stage1.*`) that stay in float."
    )
    on_far: OnFar = Field(
        default="float",
        description="What to do if the file's outputs are far from those of the float file, on calibration or held-out "
        "images: `float` leaves the guilty layers in float if they are few, and else fails; `fail` fails at once; "
        "`keep` ships the file, and the report says so, unless its outputs are constant or not finite.",
    )
