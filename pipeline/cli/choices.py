"""Options whose values are the names of a table: typer makes choices of a Literal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline.core.runtimes import RUNTIMES, shipping_runtimes

if TYPE_CHECKING:
    AnyRuntime = str
    FileRuntime = str
else:
    AnyRuntime = Literal[tuple(RUNTIMES)]
    FileRuntime = Literal[shipping_runtimes()]
