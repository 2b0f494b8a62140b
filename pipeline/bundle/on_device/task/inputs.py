# SPDX-License-Identifier: Apache-2.0
"""What a sample's inputs have to be, as given and as the network takes them, and words for what does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..infer import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

IMAGE_AXES = 3


class InputType(NamedTuple):
    """Type and shape of an input without batch axis, the names of its open sizes by axis, and whether it is an image.

    `is_raw` says that it is an image as it is given, uint8 [C, H, W], which is normalised before the network.
    """

    dtype: str
    shape: Sequence[int]
    opened: Mapping[int, str]
    is_image: bool
    is_raw: bool = False

    def __str__(self) -> str:
        """Return it as messages have it: uint8 [3, height, width] where two sizes are open."""
        sizes = ", ".join(self.opened.get(axis, str(size)) for axis, size in enumerate(self.shape))
        return f"{self.dtype} [{sizes}]"

    def takes(self, shape: Sequence[int]) -> bool:
        """Return whether an array of this shape fits, of whatever type."""
        sizes = zip(range(len(shape)), self.shape, shape)
        return len(shape) == len(self.shape) and all(
            has > 0 if axis in self.opened else want == has for axis, want, has in sizes
        )


def ready_inputs(facts: Mapping[str, Any]) -> dict[str, InputType]:
    """Return each input by name as the network takes it. `facts` are those of `task_code.load_facts`."""
    return {
        each["name"]: InputType(
            each["dtype"], each["shape"], _opened(each), facts["image"] is not None and each.get("layout") == "CHW"
        )
        for each in facts["inputs"]
    }


def raw_images(facts: Mapping[str, Any]) -> dict[str, InputType]:
    """Return each input by name that is given as an image uint8 [C, H, W] and normalised before the network."""
    return {
        each["name"]: InputType(each["raw"]["dtype"], each["raw"]["shape"], _opened(each), is_image=True, is_raw=True)
        for each in facts["inputs"]
        if "raw" in each
    }


def _opened(given: Mapping[str, Any]) -> dict[int, str]:
    return {int(axis): str(size) for axis, size in given.get("dynamic", {}).items()}


def check_names(given: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise Rejected where inputs are missing, or there are others."""
    found, allowed = list(given), list(wanted)
    if set(found) != set(allowed):
        missing = [name for name in allowed if name not in found]
        text = f"it lacks {', '.join(missing)}: " if missing else ""
        raise Rejected(f"{text}the inputs are {', '.join(found) or 'none'}, allowed: {', '.join(allowed)}")


def check_input(name: str, values: NDArray[Any], wanted: InputType) -> None:
    """Raise Rejected, with what to do, for an input of another type or shape."""
    if values.dtype.name == wanted.dtype and wanted.takes(values.shape):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Rejected(f"the input {name} holds values that are NaN or infinite: of such the network tells nothing")
        return
    advice = "".join(f"; {each}" for each in _advice(values, wanted))
    raise Rejected(f"the input {name} is {values.dtype.name} {list(values.shape)}, allowed: {wanted}{advice}")


def _advice(values: NDArray[Any], wanted: InputType) -> list[str]:
    """Say what to do about an input that does not fit."""
    found, told = values.shape, []
    if len(found) == len(wanted.shape) == IMAGE_AXES and not wanted.takes(found):
        channels, height, width = (found[0], *wanted.shape[1:])
        if wanted.takes((found[2], found[0], found[1])):
            told.append("channels last: transpose(2, 0, 1)")
        elif wanted.is_image and wanted.takes((channels, height, width)):
            sides = [found[axis] if axis in wanted.opened else wanted.shape[axis] for axis in (2, 1)]
            told.append(f"resize to {sides[0]}x{sides[1]}")
    if wanted.is_raw and values.dtype.name != wanted.dtype:
        told.append(
            "give pixels from 0 to 255, which are normalised here, or, with --ready, inputs as the network takes "
            "them, like samples/*.inputs.npz"
        )
    return told
