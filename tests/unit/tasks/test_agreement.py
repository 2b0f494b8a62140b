"""How far two networks' predictions are the same, by hand, for every kind that can say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from pipeline.core.artifact import TensorSpec
from pipeline.core.dataset import Arrays, Samples
from pipeline.core.task import Task
from pipeline.export.onnx import export_onnx
from pipeline.precision.nearness import agreement_of
from pipeline.tasks.boxes import matched_boxes
from pipeline.tasks.kinds import KITS, open_kit

MAP = np.array([[0, 0], [1, 1]])
BOXES = np.array([[0, 0, 8, 8, 0.9, 0], [20, 0, 28, 8, 0.6, 1], [0, 20, 8, 28, 0.1, 1]], np.float32)
NAMED = {"classes": ["a", "b", "c"]}
#: Kind, settings, prediction, the reference's, and what they have in common.
CASES: list[tuple[str, dict[str, Any], Any, Any, float]] = [
    ("classification", NAMED, 1, 1, 1.0),
    ("classification", NAMED, 1, 2, 0.0),
    ("multilabel", NAMED, [0.9, 0.8, 0.1], [0.9, 0.2, 0.1], 0.5),
    ("multilabel", NAMED, [0.1, 0.1, 0.1], [0.1, 0.2, 0.1], 1.0),
    ("segmentation", NAMED, MAP, MAP, 1.0),
    ("segmentation", NAMED, np.array([[0, 1], [1, 1]]), MAP, (1 / 2 + 2 / 3) / 2),
    ("detection", NAMED, BOXES, BOXES[:2], 1.0),
    ("detection", NAMED, BOXES[:1], BOXES, 2 / 3),
    ("detection", NAMED, BOXES[:, [0, 1, 2, 3, 4, 4]] * [1, 1, 1, 1, 1, 0] + [0, 0, 0, 0, 0, 2], BOXES, 0.0),
    ("detection", NAMED, BOXES[2:], BOXES[2:], 1.0),
    ("token", NAMED, np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), 0.75),
    ("token", {**NAMED, "decoding": "ctc"}, [1, 2], [1, 2, 1, 1], 0.5),
    ("token", {**NAMED, "decoding": "ctc"}, [], [], 1.0),
]


@pytest.mark.parametrize(("kind", "settings", "prediction", "reference", "wanted"), CASES)
def test_agreement_by_hand(kind: str, settings: dict[str, Any], prediction: Any, reference: Any, wanted: float) -> None:  # noqa: ANN401
    """Both ways round alike."""
    compare = open_kit(kind, **settings).agreement
    assert compare(prediction, reference) == pytest.approx(wanted)
    assert compare(reference, prediction) == pytest.approx(wanted)


def test_a_box_is_in_one_pair_alone() -> None:
    """Two boxes over one are one pair."""
    box = np.array([[0.0, 0.0, 8.0, 8.0]])
    assert matched_boxes(np.concatenate([box, box + 1]), box, 0.5) == 1


def test_numbers_and_vectors_have_none() -> None:
    """Of them signal to noise says all."""
    assert {kind for kind in KITS if kind not in {case[0] for case in CASES}} == {"regression", "embedding"}
    assert not hasattr(open_kit("regression"), "agreement")


def test_a_file_is_compared_through_its_outputs(tmp_path: Any) -> None:  # noqa: ANN401 - a path
    """The mean over samples, by the names that the file gives its outputs."""
    image = TensorSpec(name="image", shape=(1, 1, 2, 2))
    export_onnx(nn.Conv2d(1, 3, 1).eval(), tmp_path, [image], ["map"])
    samples = Samples({"image": np.zeros((2, 1, 2, 2), np.float32)}, [MAP, MAP])
    task = Task(open_kit("segmentation", **NAMED), Arrays("s", samples, samples, samples, ("a", "b", "c")))
    share = agreement_of(task, tmp_path / "model.onnx")
    assert share is not None
    logits = np.stack([np.eye(3, dtype=np.float32)[MAP].transpose(2, 0, 1)] * 2)
    other = logits.copy()
    other[1, :, 0, 1] = [0, 5, 0]
    assert share([logits], [other]) == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
