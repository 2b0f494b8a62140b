"""Random changes of training samples that move their targets along; every draw comes from the given generator.

Images [B, C, H, W]: `flip_horizontal`, `flip_vertical` (half of the samples each), `shift` (pixels, zero filled),
`brightness` and `contrast` (largest relative change), `noise` (standard deviation). Series [B, F, T]: `time_shift`
(steps, zero filled), `time_mask` (largest share of the steps set to zero in one span), `gain` (largest relative
change), `noise`. What is absent or zero is not done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Generator, Tensor

    Inputs = Mapping[str, Tensor]

IMAGE_CHANGES = ("flip_horizontal", "flip_vertical", "shift", "brightness", "contrast", "noise")
SERIES_CHANGES = ("time_shift", "time_mask", "gain", "noise")
HALF = 0.5


@dataclass(frozen=True)
class Move:
    """How one image [height, width] was moved: mirrored first, then shifted by pixels, positive to the right and down.

    A series is moved by `right` alone and has a height of 1.
    """

    mirrored: bool
    upside_down: bool
    right: int
    down: int
    height: int
    width: int


def augment_images(
    inputs: Inputs,
    targets: Sequence[Any],
    settings: Mapping[str, Any],
    generator: Generator,
    moved: Callable[[Any, Move], Any],
) -> tuple[dict[str, Tensor], list[Any]]:
    """Return changed images [B, C, H, W] and the targets as `moved` gives them; other inputs stay as they are.

    All images of a sample are moved alike, in proportion to their size.

    Raises:
        ValueError: there is no such change, or no input is an image.
    """
    wanted = _wanted(settings, IMAGE_CHANGES, "images")
    images = _of_axes(inputs, 4, "images [B, C, H, W]")
    moves = _draw_moves(images[next(iter(images))], wanted, generator)
    changed = {name: _light(_move_images(each, moves), wanted, generator) for name, each in images.items()}
    return {**inputs, **changed}, [moved(target, move) for target, move in zip(targets, moves)]


def augment_series(
    inputs: Inputs,
    targets: Sequence[Any],
    settings: Mapping[str, Any],
    generator: Generator,
    moved: Callable[[Any, Move], Any],
) -> tuple[dict[str, Tensor], list[Any]]:
    """Return changed series [B, F, T] and the targets as `moved` gives them; other inputs stay as they are.

    Raises:
        ValueError: there is no such change, or no input is a series.
    """
    wanted = _wanted(settings, SERIES_CHANGES, "series")
    series = _of_axes(inputs, 3, "series [B, F, T]")
    first = series[next(iter(series))]
    largest = int(wanted.get("time_shift", 0))
    steps = _whole(-largest, largest, len(first), generator)
    moves = [Move(mirrored=False, upside_down=False, right=s, down=0, height=1, width=first.shape[-1]) for s in steps]
    changed = {name: _spoil(_slide(each, steps), wanted, generator) for name, each in series.items()}
    return {**inputs, **changed}, [moved(target, move) for target, move in zip(targets, moves)]


def as_it_is(target: Any, _: Move) -> Any:
    """Return a target that no move changes."""
    return target


def augment_any(
    inputs: Inputs, targets: Sequence[Any], settings: Mapping[str, Any], generator: Generator
) -> tuple[dict[str, Tensor], list[Any]]:
    """Change images or series, whichever the settings speak of, and leave the targets as they are."""
    in_time = any(settings.get(name) for name in ("time_shift", "time_mask", "gain"))
    has_images = any(each.ndim == 4 for each in inputs.values())  # noqa: PLR2004 - batch, channels, height, width
    change = augment_series if in_time or not has_images else augment_images
    return change(inputs, targets, settings, generator, as_it_is)


def _wanted(settings: Mapping[str, Any], allowed: Sequence[str], what: str) -> dict[str, Any]:
    wanted = {name: value for name, value in settings.items() if value}
    unknown = [name for name in wanted if name not in allowed]
    if unknown:
        raise ValueError(f"augmentation {unknown[0]!r} is not for {what}; allowed: {', '.join(allowed)}")
    return wanted


def _of_axes(inputs: Inputs, axes: int, what: str) -> dict[str, Tensor]:
    found = {name: each for name, each in inputs.items() if each.ndim == axes and each.is_floating_point()}
    if not found:
        shapes = ", ".join(f"{name} {list(each.shape)}" for name, each in inputs.items())
        raise ValueError(f"augmentation needs {what} of floats; found {shapes}: remove it from the recipe")
    return found


def _whole(low: int, high: int, count: int, generator: Generator) -> list[int]:
    import torch

    return [int(each) for each in torch.randint(low, high + 1, (count,), generator=generator)]


def _draw_moves(images: Tensor, wanted: Mapping[str, Any], generator: Generator) -> list[Move]:
    import torch

    count, _, height, width = images.shape
    flips = torch.rand(2, count, generator=generator) < HALF
    largest = int(wanted.get("shift", 0))
    right, down = (_whole(-largest, largest, count, generator) for _ in range(2))
    mirrored, upside_down = bool(wanted.get("flip_horizontal")), bool(wanted.get("flip_vertical"))
    return [
        Move(mirrored and bool(flips[0, i]), upside_down and bool(flips[1, i]), right[i], down[i], height, width)
        for i in range(count)
    ]


def _move_images(images: Tensor, moves: Sequence[Move]) -> Tensor:
    import torch

    return torch.stack([move_map(image, move, 0) for image, move in zip(images, moves)])


def move_map(values: Tensor, move: Move, fill: float) -> Tensor:
    """Return a map [..., H, W] moved in proportion to its size; what comes in at the edges is `fill`."""
    axes = [axis for axis, wanted in ((-1, move.mirrored), (-2, move.upside_down)) if wanted]
    values = values.flip(axes) if axes else values
    height, width = values.shape[-2:]
    values = _roll(values, round(move.right * width / move.width), -1, fill)
    return _roll(values, round(move.down * height / move.height), -2, fill)


def _roll(values: Tensor, steps: int, axis: int, fill: float) -> Tensor:
    if steps == 0:
        return values
    size = values.shape[axis]
    steps = max(-size, min(size, steps))
    moved = values.roll(steps, axis)
    moved.narrow(axis, 0 if steps > 0 else size + steps, abs(steps)).fill_(fill)
    return moved


def move_row(values: Tensor, move: Move, fill: float) -> Tensor:
    """Return a row [..., T] moved in time, in proportion to its length; what comes in at the ends is `fill`."""
    return _roll(values, round(move.right * values.shape[-1] / move.width), -1, fill)


def _slide(series: Tensor, steps: Sequence[int]) -> Tensor:
    import torch

    return torch.stack([_roll(each, step, -1, 0) for each, step in zip(series, steps)])


def _light(images: Tensor, wanted: Mapping[str, Any], generator: Generator) -> Tensor:
    import torch

    draws = (torch.rand(2, len(images), 1, 1, 1, generator=generator) * 2 - 1).to(images.device)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    gain = 1 + draws[0] * float(wanted.get("contrast", 0))
    changed = (images - mean) * gain + mean + draws[1] * float(wanted.get("brightness", 0))
    return _noisy(changed if wanted.get("contrast") or wanted.get("brightness") else images, wanted, generator)


def _noisy(values: Tensor, wanted: Mapping[str, Any], generator: Generator) -> Tensor:
    import torch

    if not wanted.get("noise"):
        return values
    return values + float(wanted["noise"]) * torch.randn(values.shape, generator=generator).to(values)


def _spoil(series: Tensor, wanted: Mapping[str, Any], generator: Generator) -> Tensor:
    import torch

    count, _, length = series.shape
    draws = torch.rand(3, count, generator=generator)
    span = (draws[0] * float(wanted.get("time_mask", 0)) * length).long()[:, None]
    start = (draws[1] * (length + 1)).long()[:, None] - span // 2
    time = torch.arange(length)[None, :]
    kept = ((time < start) | (time >= start + span))[:, None].to(series)
    gain = (1 + (2 * draws[2] - 1) * float(wanted.get("gain", 0)))[:, None, None].to(series)
    return _noisy(series, wanted, generator) * kept * gain
