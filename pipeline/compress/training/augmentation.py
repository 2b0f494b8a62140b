"""Random changes of training images, on tensors, in batches; every draw comes from the given generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made. Each image draws its own.

    `shift`: pixels of random translation, zero filled. `brightness` and `contrast`: largest relative change.
    `erase`: probability of one erased rectangle (Zhong et al. 2017: 2-33 % of the area, aspect 0.3-3.3, random fill).
    `mixup`: alpha of mixup (Zhang et al. 2018); it blends images and targets.
    """

    flip_horizontal: bool
    flip_vertical: bool
    rotate_90: bool
    shift: int
    brightness: float
    contrast: float
    erase: float
    mixup: float


def augment(images_NCHW: Tensor, choice: Augmentation, generator: Generator) -> Tensor:
    """Return changed copies of normalised images [N, C, H, W]; the order is flip, rotate, shift, light, erase."""
    images = _flip(images_NCHW, choice, generator)
    if choice.rotate_90:
        turned = torch.rand(len(images), generator=generator) < 0.5  # noqa: PLR2004 (half of the images)
        images = torch.where(_per_image(turned, images), images.transpose(2, 3).flip(3), images)
    if choice.shift:
        images = shift(images, choice.shift, generator)
    if choice.brightness or choice.contrast:
        images = _light(images, choice, generator)
    if choice.erase:
        images = erase(images, choice.erase, generator)
    return images


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device)[:, None, None, None]


def _flip(images: Tensor, choice: Augmentation, generator: Generator) -> Tensor:
    for wanted, dim in ((choice.flip_horizontal, 3), (choice.flip_vertical, 2)):
        if wanted:
            flipped = torch.rand(len(images), generator=generator) < 0.5  # noqa: PLR2004 (half of the images)
            images = torch.where(_per_image(flipped, images), images.flip(dim), images)
    return images


def shift(images_NCHW: Tensor, pixels: int, generator: Generator) -> Tensor:
    """Translate each image by up to `pixels` in both directions; what comes in is zero."""
    count, channels, height, width = images_NCHW.shape
    padded = pad(images_NCHW, (pixels,) * 4)
    offsets = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator).to(images_NCHW.device)
    rows = (offsets[0][:, None] + torch.arange(height, device=images_NCHW.device))[:, None, :, None]
    columns = (offsets[1][:, None] + torch.arange(width, device=images_NCHW.device))[:, None, None, :]
    image = torch.arange(count, device=images_NCHW.device)[:, None, None, None]
    channel = torch.arange(channels, device=images_NCHW.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def _light(images: Tensor, choice: Augmentation, generator: Generator) -> Tensor:
    draws = torch.rand(2, len(images), generator=generator) * 2 - 1
    gain = _per_image(1 + draws[0] * choice.contrast, images)
    offset = _per_image(draws[1] * choice.brightness, images)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * gain + mean + offset


def erase(images_NCHW: Tensor, probability: float, generator: Generator) -> Tensor:
    """Overwrite one random rectangle of some images with standard normal noise."""
    count, _, height, width = images_NCHW.shape
    draws = torch.rand(5, count, generator=generator)
    area = (0.02 + 0.31 * draws[1]) * height * width
    aspect = torch.exp(torch.log(torch.tensor(0.3)) * (1 - 2 * draws[2]))
    high = (area * aspect).sqrt().clamp(1, height - 1).long()
    wide = (area / aspect).sqrt().clamp(1, width - 1).long()
    top = (draws[3] * (height - high)).long()
    left = (draws[4] * (width - wide)).long()
    row, column = torch.arange(height)[None, :], torch.arange(width)[None, :]
    inside_rows = (row >= top[:, None]) & (row < (top + high)[:, None])
    inside_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    chosen = draws[0] < probability
    mask = (inside_rows[:, :, None] & inside_columns[:, None, :] & chosen[:, None, None])[:, None]
    noise = torch.randn(images_NCHW.shape, generator=generator)
    return torch.where(mask.to(images_NCHW.device), noise.to(images_NCHW), images_NCHW)


def mixup(images_NCHW: Tensor, targets_NK: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Blend each image and its target distribution with another of the batch, with one Beta(alpha, alpha) weight."""
    # Beta(a, a) from two gamma draws by the given generator: torch's own distributions only use the global one.
    gammas = torch._standard_gamma(torch.full((2,), alpha), generator=generator)  # noqa: SLF001 (no public form takes a generator)
    weight = float(gammas[0] / gammas.sum())
    order = torch.randperm(len(images_NCHW), generator=generator).to(images_NCHW.device)
    images = weight * images_NCHW + (1 - weight) * images_NCHW[order]
    return images, weight * targets_NK + (1 - weight) * targets_NK[order]
