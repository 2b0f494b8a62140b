"""Names of the codes of weights. Loads nothing."""

from __future__ import annotations

from typing import Literal, get_args

#: Raw bytes, a codebook with words of equal length, and what the standard library compresses are always allowed.
CodeName = Literal["bitmap", "relative", "huffman", "range"]
CODE_NAMES: tuple[CodeName, ...] = get_args(CodeName)
