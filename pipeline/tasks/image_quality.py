"""How near an image is to another: PSNR and SSIM. numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

#: An image that is right to the last bit has no finite PSNR; it counts as this many dB, so that means exist.
PSNR_AT_MOST = 100.0
#: Wang et al. 2004: a Gaussian window of 11 pixels with sigma 1.5.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def peak_ratio(image: Array, wanted: Array, peak: float) -> float:
    """Return the peak signal-to-noise ratio in dB, at most 100."""
    error = float(np.mean((np.asarray(image, np.float64) - np.asarray(wanted, np.float64)) ** 2))
    return PSNR_AT_MOST if error == 0 else min(PSNR_AT_MOST, float(10 * np.log10(peak**2 / error)))


def structural_similarity(image: Array, wanted: Array, peak: float) -> float:
    """Return the mean SSIM (Wang et al. 2004) over windows wholly inside, and over channels of [..., H, W].

    Raises:
        ValueError: the image is smaller than a window.
    """
    if min(image.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of {WINDOW} x {WINDOW} pixels or more; found {image.shape}")
    one, other = np.asarray(image, np.float64), np.asarray(wanted, np.float64)
    mean_one, mean_other = _blurred(one), _blurred(other)
    var_one, var_other = _blurred(one * one) - mean_one**2, _blurred(other * other) - mean_other**2
    common = _blurred(one * other) - mean_one * mean_other
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    light = (2 * mean_one * mean_other + c1) / (mean_one**2 + mean_other**2 + c1)
    return float(np.mean(light * (2 * common + c2) / (var_one + var_other + c2)))


def _blurred(values: Array) -> Array:
    """Return Gaussian means over the windows inside [..., H, W]: 10 pixels fewer on both axes."""
    taps = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    taps /= taps.sum()
    for axis in (-1, -2):
        size = values.shape[axis] - WINDOW + 1
        cut = [slice(None)] * values.ndim
        total = np.zeros(())
        for place, tap in enumerate(taps):
            cut[axis] = slice(place, place + size)
            total = total + tap * values[tuple(cut)]
        values = total
    return values
