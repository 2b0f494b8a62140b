"""How a device makes the network's input from an image file: preprocess.json, and labels.txt for its answer.

infer.py does what is written here; with it, an image of the data set becomes the numbers that accuracy was taken on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.bundle.json_text import json_text
from pipeline.core.errors import InputError
from pipeline.core.store import read_artifact

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.bundle.content import Content

SCHEMA_VERSION = 1
#: Channels of an image file that infer.py can make.
COLOURS = {1: "grey", 3: "rgb"}
UNKNOWN = (
    "The images of this data set were made by its own code, which this program does not know: images for infer.py must "
    "have been made by that code, with up to 8 bits, in these colours and this size. They are not resized."
)


def write_preprocessing(content: Content, folder: Path) -> None:
    """Write preprocess.json and labels.txt.

    Raises:
        InputError: images of neither one nor three channels, or a class name that is not one line.
    """
    (folder / "preprocess.json").write_text(json_text(described(content)), encoding="utf-8")
    (folder / "labels.txt").write_text(class_lines(content.dataset.classes), encoding="utf-8")


def described(content: Content) -> dict[str, Any]:
    """Return the content of preprocess.json: what becomes of a file, and the input that the network takes."""
    data, known = content.dataset, content.dataset.preprocessing
    channels, height, width = data.train.images.shape[1:]
    if channels not in COLOURS:
        raise InputError(f"{data.name}: images of {channels} channels, allowed in a bundle: 1 (grey) or 3 (colour)")
    return {
        "schema_version": SCHEMA_VERSION,
        "note": "" if known else UNKNOWN,
        "colour": known.colour if known else COLOURS[channels],
        "height": height,
        "width": width,
        # Of images that code of its own made nothing but 8 bits can be meant, as they lie in the file.
        "any_depth": known is not None,
        "turned": known is not None,
        "white": known.white if known else None,
        "resize": {"rule": known.resize if known else "none", "filter": "pillow-bilinear"},
        "scale": "1/255",
        "mean": list(data.normalisation.mean),
        "std": list(data.normalisation.std),
        "channels": len(data.normalisation.mean),
        "repeat_grey": channels < len(data.normalisation.mean),
        "layout": "NCHW",
        "dtype": "float32",
        "input": read_artifact(content.files[content.runtime].parent).inputs[0].name,
        "batch": content.report.target.batch,
        "runtime": content.runtime,
    }


def class_lines(classes: tuple[str, ...]) -> str:
    """Return the class names, one in each line."""
    for name in classes:
        if name.splitlines() != [name]:
            raise InputError(
                f"the class {name!r} cannot be written to labels.txt: a name must be one line, and not empty"
            )
    return "".join(f"{name}\n" for name in classes)
