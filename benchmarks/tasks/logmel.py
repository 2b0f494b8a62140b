"""A second of sound to the logarithms of the energies of bands that are spaced as ears hear, in numpy alone."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

#: Samples a second; samples of a frame, from one frame to the next, and of its transform; bands.
RATE, FRAME, STEP, LENGTH, BANDS = 16_000, 640, 320, 1024, 20
LOWEST, HIGHEST = 60.0, 7600.0
#: Added to energies, so that silence has a logarithm: that of noise 60 dB below full scale or so.
FLOOR = 1e-4
#: Where logarithms lie, roughly: they become (x - MIDDLE) / SPREAD.
MIDDLE, SPREAD = -2.0, 3.0


def log_mel(sound: Floats) -> Floats:
    """Return features [49, 20] of one second, float32 [16000] from -1 to 1 (O'Shaughnessy 1987: mel scale)."""
    starts = np.arange(0, len(sound) - FRAME + 1, STEP)
    frames = sound[starts[:, None] + np.arange(FRAME)] * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames, LENGTH)) ** 2
    return ((np.log(power @ _bands().T + FLOOR) - MIDDLE) / SPREAD).astype(np.float32)


@lru_cache(maxsize=1)
def _bands() -> NDArray[np.float64]:
    """Return triangles [BANDS, LENGTH / 2 + 1] whose corners are equally far from each other in mel."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (LOWEST, HIGHEST))
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    hertz = np.arange(LENGTH // 2 + 1) * RATE / LENGTH
    up = (hertz - corners[:-2, None]) / np.diff(corners[:-1])[:, None]
    down = (corners[2:, None] - hertz) / np.diff(corners[1:])[:, None]
    return np.asarray(np.clip(np.minimum(up, down), 0, None))
