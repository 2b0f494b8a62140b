"""preprocess.json says how a file becomes the network's input, labels.txt what its outputs mean."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.bundle.preprocessing import write_preprocessing
from pipeline.core.dataset import Normalisation, Preprocessing, Split
from pipeline.core.errors import InputError
from pipeline.data.arrays import image_classifier
from tests.unit.bundle.small_content import CLASSES, SIDE, content, dataset

if TYPE_CHECKING:
    from pathlib import Path


def test_everything_that_an_input_needs(tmp_path: Path) -> None:
    """Colours, size, statistics, batch and names stand there; a grey image is repeated where the network has three."""
    data = replace(dataset(), normalisation=Normalisation((0.5,) * 3, (0.25,) * 3))
    made = content(tmp_path, data, batch=2, runtimes=("onnxruntime",))
    write_preprocessing(made, tmp_path)
    assert json.loads((tmp_path / "preprocess.json").read_text()) == {
        "schema_version": 1, "note": "", "colour": "grey", "height": SIDE, "width": SIDE,
        "resize": {"rule": "stretch", "filter": "pillow-bilinear"}, "scale": "1/255", "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25], "channels": 3, "repeat_grey": True, "layout": "NCHW", "dtype": "float32",
        "any_depth": True, "turned": True, "white": None, "input": "input", "batch": 2, "runtime": "onnxruntime",
    }  # fmt: skip
    assert (tmp_path / "labels.txt").read_text().splitlines() == list(CLASSES)


def test_colour_images_keep_their_rule(tmp_path: Path) -> None:
    """Three channels in and three statistics: nothing is repeated, and the data's own rule of resizing stands."""
    rule = Preprocessing("rgb", "shorter-side-then-centre-crop")
    write_preprocessing(content(tmp_path, dataset(3, rule), runtimes=("onnxruntime",)), tmp_path)
    found = json.loads((tmp_path / "preprocess.json").read_text())
    assert (found["colour"], found["channels"], found["repeat_grey"]) == ("rgb", 3, False)
    assert found["resize"]["rule"] == rule.resize


def test_images_of_unknown_origin_are_not_resized(tmp_path: Path) -> None:
    """Where the user's own code made the images, files have the network's size already, and a note says why."""
    data = replace(dataset(3), preprocessing=None)
    write_preprocessing(content(tmp_path, data, runtimes=("onnxruntime",)), tmp_path)
    found = json.loads((tmp_path / "preprocess.json").read_text())
    assert (found["colour"], found["resize"]["rule"]) == ("rgb", "none")
    assert "made by its own code" in found["note"]


def test_what_has_no_place_in_a_bundle(tmp_path: Path) -> None:
    """Images of two channels, and a class whose name is not one line, are refused with what is allowed."""
    made = content(tmp_path, runtimes=("onnxruntime",))
    two = Split(np.zeros((3, 2, SIDE, SIDE), np.uint8), np.arange(3))
    with pytest.raises(InputError, match="images of 2 channels, allowed in a bundle: 1"):
        write_preprocessing(replace(made, task=image_classifier(replace(made.dataset, train=two))), tmp_path)
    for name in ("two\nlines", ""):
        with pytest.raises(InputError, match=r"cannot be written to labels\.txt"):
            write_preprocessing(
                replace(made, task=image_classifier(replace(made.dataset, classes=("a", name, "c")))), tmp_path
            )
