"""How a recipe writes where zeros may lie: N of every M input channels, or blocks of N output channels."""

from __future__ import annotations

import re

N_OF_M = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})\Z")
BLOCKS = re.compile(r"1x([1-9]\d{0,3})\Z")


def pattern_fault(text: str) -> str:
    """Say what is wrong with a pattern; empty where it can be read."""
    found = N_OF_M.match(text)
    if BLOCKS.match(text) or (found and int(found[1]) < int(found[2])):
        return ""
    return f'found "{text}", allowed: N:M such as 2:4 with N below M, or 1xN such as 1x4'
