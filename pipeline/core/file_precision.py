"""What a file computes in, as far as it is known before the file is made: what its time depends on."""

from __future__ import annotations

from pydantic import Field

from pipeline.core.artifact import FrozenModel

#: A file as it is exported, which nothing has quantized.
FLOAT = "fp32"


class FilePrecision(FrozenModel):
    """A precision, and of its settings those that a file's time depends on: ranges of activations are none of them.

    `precision` is fp32 or one of `quantize`. The rest is empty with fp32: `engine` places the QDQ pairs, `scheme` has
    the types of activations and weights, `keep` the patterns of nodes that stay in float, and `on_arm` says that
    additions are computed in float, as the same file must compute the same there. Where it is not `certain`, what
    makes the file may choose another precision by measured times. `packages` are what makes it.
    """

    precision: str = FLOAT
    engine: str = ""
    scheme: str = ""
    per_channel: bool = True
    symmetric: bool = False
    keep: tuple[str, ...] = ()
    on_arm: bool = False
    certain: bool = True
    packages: tuple[str, ...] = Field(default=(), exclude=True)

    def __str__(self) -> str:
        """Return it for a person, such as `int8 (u8s8)`."""
        return f"{self.precision} ({self.scheme})" if self.scheme else self.precision
