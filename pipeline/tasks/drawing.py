"""Boxes, masks and points on images uint8 [H, W, 3], in numpy alone: nothing else is on a board for certain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

#: Colours that are told apart with any kind of colour vision (Okabe and Ito 2008), repeated for more classes.
COLOURS = np.array(
    [[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167]],
    dtype=np.uint8,
)


def class_colour(place: int) -> Pixels:
    """Return the colour [3] of a class."""
    return np.asarray(COLOURS[place % len(COLOURS)])


def coloured(image: NDArray[Any]) -> Pixels:
    """Return a copy of an image uint8 [H, W], [H, W, 1] or [H, W, 3] with three channels."""
    grey = np.asarray(image, dtype=np.uint8)
    grey = grey[:, :, None] if grey.ndim == 2 else grey  # noqa: PLR2004 - height and width
    return np.repeat(grey, 3, axis=2) if grey.shape[2] == 1 else grey.copy()


def draw_box(image_HWC: Pixels, box: NDArray[Any], colour: Pixels) -> None:
    """Draw the outline of a box (x1, y1, x2, y2) into an image; what lies outside is left out."""
    height, width = image_HWC.shape[:2]
    left, right = (int(np.clip(round(float(each)), 0, width - 1)) for each in (box[0], box[2] - 1))
    top, bottom = (int(np.clip(round(float(each)), 0, height - 1)) for each in (box[1], box[3] - 1))
    image_HWC[[top, bottom], left : right + 1] = colour
    image_HWC[top : bottom + 1, [left, right]] = colour


def draw_mask(image_HWC: Pixels, mask_HW: NDArray[np.bool_], colour: Pixels) -> None:
    """Tint half of each pixel of a mask."""
    image_HWC[mask_HW] = (image_HWC[mask_HW].astype(np.uint16) + colour) // 2


def draw_point(image_HWC: Pixels, x: float, y: float, colour: Pixels) -> None:
    """Draw a cross of five pixels around a point."""
    height, width = image_HWC.shape[:2]
    for across, down in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
        column, row = round(x) + across, round(y) + down
        if 0 <= column < width and 0 <= row < height:
            image_HWC[row, column] = colour
