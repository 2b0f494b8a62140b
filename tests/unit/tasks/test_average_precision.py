"""COCO's average precision, against pycocotools, and non-maximum suppression, against its definition."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from pipeline.tasks.average_precision import AveragePrecision
from pipeline.tasks.boxes import box_overlaps, suppress, suppress_by_class
from tests.optional import require

#: Three images with two classes; boxes of a class that are hit, hit twice, missed, and found where none is.
TRUTHS = [
    [[10, 10, 50, 50, 0], [60, 20, 90, 80, 1]],
    [[5, 5, 25, 45, 0]],
    [[30, 30, 70, 60, 1], [0, 0, 20, 20, 0], [72, 8, 95, 31, 0]],
]
FOUND = [
    [[12, 11, 51, 48, 0.9, 0], [10, 14, 50, 50, 0.6, 0], [62, 22, 88, 84, 0.8, 1]],
    [[5, 9, 27, 45, 0.7, 0], [50, 50, 70, 70, 0.75, 1]],
    [[31, 29, 69, 61, 0.5, 1], [1, 0, 20, 22, 0.4, 0]],
]


def scored(metric: AveragePrecision, found: Any, truths: Any) -> float:  # noqa: ANN401 - lists or arrays
    """Return the score of images."""
    return metric.compute([metric.statistic(np.array(p), np.array(t)) for p, t in zip(found, truths, strict=True)])


def test_three_images_as_pycocotools_has_them() -> None:
    """`COCOeval` of pycocotools 2.0.11: AP at 0.50 to 0.95, at 0.50 and at 0.75."""
    assert scored(AveragePrecision("mAP50-95", 2), FOUND, TRUTHS) == pytest.approx(0.532384488448845, abs=1e-12)
    assert scored(AveragePrecision("mAP50", 2, [0.5]), FOUND, TRUTHS) == pytest.approx(0.762788778877888, abs=1e-12)
    assert scored(AveragePrecision("mAP75", 2, [0.75]), FOUND, TRUTHS) == pytest.approx(0.762788778877888, abs=1e-12)


def test_what_occurs_counts() -> None:
    """Perfect boxes score 1; a class that does not occur counts not; one that is never found counts 0."""
    metric = AveragePrecision("mAP50-95", 3)
    perfect = [[[*row[:4], 1.0, row[4]] for row in image] for image in TRUTHS]
    assert scored(metric, perfect, TRUTHS) == 1.0
    statistics = [metric.statistic(np.array(p), np.array(t)) for p, t in zip(perfect, TRUTHS, strict=True)]
    assert np.isnan(metric.by_class(statistics)[2])
    assert metric.compute(statistics[1:2]) == 1.0
    assert scored(metric, [[]], TRUTHS[:1]) == 0.0
    assert np.isnan(scored(metric, FOUND[:1], [[]]))
    assert np.isnan(metric.compute([]))


def random_image(random: np.random.Generator, classes: int) -> tuple[Any, Any]:
    """Return boxes that are found [M, 6] and true ones [N, 5]; scores repeat."""
    count = int(random.integers(0, 6))
    corner, side = random.uniform(0, 80, (count, 2)), random.uniform(2, 60, (count, 2))
    truth = np.c_[corner, corner + side, random.integers(0, classes, count)]
    near = np.repeat(truth, random.integers(0, 3, count), axis=0)
    boxes = near[:, :4] + random.choice([0.0, 1.0, 5.0], (len(near), 1)) * random.normal(size=(len(near), 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)
    wrong = random.random(len(near)) < 0.2
    return np.c_[boxes, random.random(len(near)).round(1), np.where(wrong, 0, near[:, 4])], truth


def by_pycocotools(found: list[Any], truths: list[Any], classes: int) -> tuple[float, float]:
    """Return AP at 0.50 to 0.95 and at 0.50 of images."""
    from pycocotools.coco import COCO  # noqa: PLC0415 - not everywhere
    from pycocotools.cocoeval import COCOeval  # noqa: PLC0415

    def row(image: int, box: Any, category: float) -> dict[str, Any]:  # noqa: ANN401 - any array
        sides = box[2:4] - box[:2]
        return {"image_id": image, "category_id": int(category), "bbox": [*box[:2], *sides], "area": sides.prod()}

    true = [row(image, box, box[4]) for image, boxes in enumerate(truths, 1) for box in boxes]
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image + 1} for image in range(len(truths))],
        "categories": [{"id": each} for each in range(classes)],
        "annotations": [{**each, "id": place, "iscrowd": 0} for place, each in enumerate(true, 1)],
    }
    detections = [{**row(i, box, box[5]), "score": box[4]} for i, boxes in enumerate(found, 1) for box in boxes]
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(detections), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


@pytest.mark.filterwarnings("ignore")  # of pycocotools
def test_random_images_agree_with_pycocotools() -> None:
    """Twelve of the 396 sets of images that agreed to 4e-16, ties and all."""
    require("pycocotools")
    random = np.random.default_rng(5)
    for _ in range(12):
        classes = int(random.integers(1, 5))
        found, truths = zip(*(random_image(random, classes) for _ in range(int(random.integers(4, 12)))), strict=True)
        expected = by_pycocotools([*found], [*truths], classes)
        own = (AveragePrecision("", classes), AveragePrecision("", classes, [0.5]))
        assert [scored(metric, found, truths) for metric in own] == pytest.approx(expected, abs=1e-9)


def overlap(one: Any, other: Any) -> float:  # noqa: ANN401 - rows of four
    """Return the intersection over union of two boxes, side by side."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - common)


def test_suppression_by_its_definition() -> None:
    """A box stays if it overlaps none, of those that stay, with a better score."""
    random = np.random.default_rng(0)
    for _ in range(30):
        count = int(random.integers(1, 25))
        corner = random.uniform(0, 30, (count, 2))
        boxes, scores = np.c_[corner, corner + random.uniform(5, 25, (count, 2))], random.random(count).round(1)
        classes, stay = random.integers(0, 3, count), list[int]()
        for place in sorted(range(count), key=lambda each: -scores[each]):
            if all(overlap(boxes[place], boxes[other]) <= 0.5 for other in stay):
                stay.append(place)
        assert suppress(boxes, scores, 0.5).tolist() == stay
        alone = suppress_by_class(boxes, scores, classes, 0.5)
        for each in range(3):
            mine = np.flatnonzero(classes == each)
            assert sorted(alone[classes[alone] == each]) == sorted(mine[suppress(boxes[mine], scores[mine], 0.5)])
        assert (np.diff(scores[alone]) <= 0).all()
        assert box_overlaps(boxes[:1], boxes)[0] == pytest.approx([overlap(boxes[0], other) for other in boxes])
    assert suppress_by_class(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5).tolist() == []
