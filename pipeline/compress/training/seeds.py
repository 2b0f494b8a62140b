"""Seeds of what a training draws."""

from __future__ import annotations

import hashlib


def epoch_seed(seed: int, epoch: int) -> int:
    """Return a 63-bit seed that depends on both numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:8], "big") >> 1
