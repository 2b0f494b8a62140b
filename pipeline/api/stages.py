"""A function for each stage, by the name of its class: `Prune(ratio=0.5)` is the stage as a recipe has it.

`stages.pyi` says which keys each takes to editors and type checkers; `make schema` writes it.
"""

from __future__ import annotations

from pipeline.api.values import STAGE_FUNCTIONS

__all__ = list(STAGE_FUNCTIONS)
globals().update(STAGE_FUNCTIONS)
