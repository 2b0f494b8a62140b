"""Sizes that an exported file leaves open beside the batch: the length of a sentence or a series, an image's sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.artifact import TensorSpec
    from pipeline.core.feeds import Feeds

#: Sizes by name.
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class OpenSizes:
    """Which axes of which inputs are open, and at which sizes files are timed.

    `axes` has for each size, by its name, the axis of each input that has it, the batch being axis 0:
    {"length": {"tokens": 1, "mask": 1}}. `timed` has values for all of them; empty: those of the samples.
    """

    axes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    timed: tuple[Sizes, ...] = ()

    def of_input(self, name: str) -> dict[int, str]:
        """Return the names of an input's open sizes by axis."""
        return {axes[name]: size for size, axes in self.axes.items() if name in axes}

    def own(self, inputs: Sequence[TensorSpec]) -> dict[str, int]:
        """Return the sizes that inputs of these shapes have."""
        shapes = {spec.name: spec.shape for spec in inputs}
        return {size: shapes[name][axis] for size, axes in self.axes.items() for name, axis in [*axes.items()][:1]}

    def others(self, inputs: Sequence[TensorSpec]) -> list[Sizes]:
        """Return the sizes at which an export is tried beside the samples': those timed, else twice the samples'."""
        own = self.own(inputs)
        timed = [sizes for sizes in self.timed if dict(sizes) != own]
        return timed or ([{name: 2 * size for name, size in own.items()}] if own else [])

    def resized(self, feeds: Feeds, sizes: Sizes) -> Feeds:
        """Return inputs [N, ...] at other sizes: cut, or repeated from the start."""
        found = dict(feeds)
        for name, values in feeds.items():
            for axis, size in self.of_input(name).items():
                found[name] = np.take(found[name], range(sizes[size]), axis=axis, mode="wrap")
            found[name] = np.ascontiguousarray(found[name]).astype(values.dtype, copy=False)
        return found

    def shapes(self, inputs: Sequence[TensorSpec], sizes: Sizes) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input at these sizes."""
        return {
            spec.name: tuple(sizes[opened[axis]] if axis in opened else each for axis, each in enumerate(spec.shape))
            for spec in inputs
            for opened in [self.of_input(spec.name)]
        }


#: Every size is that of the samples.
NOTHING_OPEN = OpenSizes()


def sizes_text(sizes: Sizes) -> str:
    """Return sizes in words, such as "height 32, width 48"."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def checked_sizes(given: Any, timed: Any, inputs: Sequence[TensorSpec], where: str) -> OpenSizes:  # noqa: ANN401 - the user's
    """Return what a task leaves open, checked against its inputs [N, ...].

    Raises:
        InputError: there is no such input or axis, one size is not the same in all its inputs, or those that are timed
            are not numbers for each name. `where` starts the message.
    """
    shapes = {spec.name: spec.shape for spec in inputs}
    for size, axes in _mapping(given, f"{where}: dynamic").items():
        _check_name(size, where)
        for name, axis in _mapping(axes, f"{where}: dynamic.{size}").items():
            if name not in shapes:
                raise InputError(f"{where}: dynamic.{size} names the input {name}, allowed: {', '.join(shapes)}")
            if type(axis) is not int or not 1 <= axis < len(shapes[name]):
                axes_text = f"its axes from 1 to {len(shapes[name]) - 1}, the batch being 0"
                raise InputError(f"{where}: dynamic.{size}.{name}: found {axis}, allowed: {axes_text}")
        found = {shapes[name][axis] for name, axis in axes.items()}
        if len(found) != 1 or found == {1}:
            raise InputError(
                f"{where}: dynamic.{size}: the samples have the sizes {sorted(found)} there, allowed: one of 2 or more"
            )
    _check_apart(given, timed, where)
    for sizes in timed:
        numbers = _mapping(sizes, f"{where}: timed")
        if {*numbers} != {*given} or not all(type(each) is int and each > 0 for each in numbers.values()):
            raise InputError(f"{where}: timed: found {dict(numbers)}, allowed: a size for {', '.join(given)}")
    return OpenSizes(dict(given), tuple(timed))


def _check_apart(given: Mapping[str, Mapping[str, int]], timed: Sequence[Sizes], where: str) -> None:
    """Raise InputError where one axis has two names, one size is timed twice, or there is none to be timed."""
    axes = [(name, axis) for axes in given.values() for name, axis in axes.items()]
    if twice := next((each for each in axes if axes.count(each) > 1), None):
        raise InputError(f"{where}: dynamic names axis {twice[1]} of {twice[0]} twice, allowed: one name for each axis")
    if timed and not given:
        raise InputError(f"{where}: found timed without dynamic, allowed: both, or no timed")
    if again := next((each for place, each in enumerate(timed) if each in timed[:place]), None):
        raise InputError(f"{where}: timed has {dict(again)} twice, allowed: each once")


def _check_name(size: object, where: str) -> None:
    if not isinstance(size, str) or not size.isidentifier() or size == "batch":
        raise InputError(f"{where}: dynamic: found the name {size!r}, allowed: a word such as length, but not batch")


def _mapping(given: Any, where: str) -> Mapping[str, Any]:  # noqa: ANN401 - the user's
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: found {given!r}, allowed: a mapping, such as {{length: {{tokens: 1}}}}")
    return given
