"""The data of benchmarks/tasks: exact boxes and masks, the same at each load, and series as their files have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.dataset import Arrays
from pipeline.core.errors import InputError
from pipeline.data import python_file
from pipeline.tasks.kinds import open_kit
from tests.optional import require

DATA = Path(__file__).parents[3] / "benchmarks" / "tasks"
FEW = {"train": 12, "validation": 4, "test": 4}


def loaded(file: str, **arguments: str | float) -> Arrays:
    """Return what a data file gives, as a recipe loads it."""
    found = python_file.load(DATA / f"{file}.py", arguments, (Path("/usr/share/datasets/fashion-mnist"),))
    assert isinstance(found, Arrays)
    return found


def test_boxes_and_masks_are_those_of_the_items() -> None:
    """A mask's pixels of a class lie in its boxes and reach to their edges where nothing hides them."""
    require("fashion-mnist")
    boxes, masks = (loaded("canvases", kind=kind, **FEW) for kind in ("detection", "segmentation"))
    assert (boxes.train.inputs["image"] == masks.train.inputs["image"]).all()
    detection = open_kit("detection", classes=boxes.classes)
    assert detection.check_targets(boxes.train.targets) == detection.check_places(boxes.train.targets, 96, 96) == []
    assert open_kit("segmentation", classes=masks.classes).check_targets(masks.train.targets) == []
    reached = 0
    for found, mask in zip(boxes.train.targets, masks.train.targets, strict=True):
        inside = np.zeros_like(mask)
        for x1, y1, x2, y2, label in found.astype(int):
            part = mask[y1:y2, x1:x2] == label + 1
            inside[y1:y2, x1:x2] = 1
            reached += bool(part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any())
        assert not mask[inside == 0].any()
    assert reached > 0.7 * sum(map(len, boxes.train.targets))
    assert {0, 1} <= {*np.unique(masks.train.targets)}


def test_canvases_are_the_same_at_each_load() -> None:
    """More of them begin with the same ones; another seed gives others; each split has its own."""
    require("fashion-mnist")
    few, more, other = (loaded("canvases", **{**FEW, **change}) for change in ({}, {"train": 14}, {"seed": 1}))
    assert (few.train.inputs["image"] == more.train.inputs["image"][:12]).all()
    assert (few.train.inputs["image"] != other.train.inputs["image"]).any(axis=(1, 2, 3)).all()
    assert (few.train.inputs["image"][:4] != few.test.inputs["image"]).any(axis=(1, 2, 3)).all()
    assert few.train.inputs["image"].dtype == np.uint8
    with pytest.raises(InputError, match="canvases of kind 'depth' are not there: detection, segmentation"):
        loaded("canvases", kind="depth", **FEW)


def test_small_images_are_means_of_large_ones() -> None:
    """To half a grey level; repeating their pixels is worse than the truth, so there is something to learn."""
    require("fashion-mnist")
    data = loaded("super_resolution", **FEW)
    small, large = data.train.inputs["image"], np.asarray(data.train.targets)
    assert (small.shape, large.shape, small.dtype) == ((12, 1, 48, 48), (12, 1, 96, 96), np.float32)
    means = large.reshape(12, 1, 48, 2, 48, 2).mean(axis=(3, 5))
    assert np.abs(means - small).max() <= 0.51 / 255
    psnr = open_kit("regression", layout="dense").metrics[0]
    repeated = small.repeat(2, axis=2).repeat(2, axis=3)
    assert 15 < psnr.compute([psnr.statistic(*pair) for pair in zip(repeated, large, strict=True)]) < 35


def test_series_of_a_file(tmp_path: Path) -> None:
    """Two channels, standardised by those that train; a quarter of each class is held out."""
    folder = tmp_path / "Toy"
    folder.mkdir()
    rows = [f"{place},{place + 1},{place + 2}:{10 * place},0,0:{'up' if place % 2 else 'down'}" for place in range(8)]
    for part in ("TRAIN", "TEST"):
        (folder / f"Toy_{part}.ts").write_text(
            "\n".join(["# about", "@problemName Toy", "@classLabel true", "@data", *rows])
        )
    data = loaded("series", name="Toy", root=str(tmp_path), validation=0.25)
    assert data.classes == ("down", "up")
    assert [data.count(split) for split in ("train", "validation", "test")] == [6, 2, 8]
    assert sorted(data.targets("validation", slice(None))) == [0, 1]
    assert data.train.inputs["series"].mean(axis=(0, 2)) == pytest.approx([0, 0], abs=1e-6)
    assert data.train.inputs["series"].std(axis=(0, 2)) == pytest.approx([1, 1], abs=1e-6)
    assert data.test.inputs["series"].shape == (8, 2, 3)
    assert [*data.targets("test", slice(None))] == [0, 1] * 4
    planes = loaded("series", name="Toy", root=str(tmp_path), planes=True)
    assert (planes.test.inputs["series"][:, 0] == data.test.inputs["series"].transpose(0, 2, 1)).all()
