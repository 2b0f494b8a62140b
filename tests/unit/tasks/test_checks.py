"""Targets and outputs that do not fit: one sentence each, with what was found, what is allowed and what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.tasks.kinds import KITS, open_kit

SETTINGS: dict[str, dict[str, Any]] = {
    "classification": {"classes": 3},
    "multilabel": {"classes": 3},
    "segmentation": {"classes": 3},
    "detection": {"classes": 3, "strides": (8, 16)},
    "regression": {},
    "token": {"classes": 3},
    "embedding": {},
}
KEYPOINTS, DENSE, CTC = {"layout": "keypoints"}, {"layout": "dense"}, {"decoding": "ctc"}

GOOD_TARGETS: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("classification", {}, [0, np.int64(2), np.array([1])]),
    ("multilabel", {}, [np.array([0, 1, 1]), np.array([0.0, 1.0, 0.0]), np.array([True, False, True])]),
    ("segmentation", {}, [np.array([[0, 2], [255, 1]]), np.zeros((2, 2), np.uint8)]),
    ("detection", {}, [np.array([[1, 2, 3, 4, 2]]), np.zeros((0, 5)), []]),
    ("regression", {}, [np.array([1.0, 2.0]), np.array([3, 4])]),
    ("regression", KEYPOINTS, [np.ones((4, 2))]),
    ("regression", DENSE, [np.ones((3, 8, 8))]),
    ("token", {}, [np.array([0, 2, -100])]),
    ("token", CTC, [[1, 2, 2], [1], []]),
    ("embedding", {}, [np.array([0.5, -1.0])]),
]

BAD_TARGETS: list[tuple[str, dict[str, Any], Any, str]] = [
    ("classification", {}, -1, "found label -1; allowed are 0 to 2"),
    ("classification", {}, 3, "found label 3; allowed are 0 to 2: name all classes, or number labels from 0"),
    ("classification", {}, 1.0, "found dtype float64; labels are integers"),
    ("classification", {}, np.array([0, 1, 0]), "found one-hot int64 [3]; a target is the class itself"),
    ("multilabel", {}, np.array([0, 2, 1]), "found value 2; allowed are 0 and 1"),
    ("multilabel", {}, np.array([0, 2]), "found int64 [2]; a target is an array [3] of 0 and 1"),
    ("multilabel", {}, np.array([0, np.nan, 1]), "found 1 values that are nan or infinite"),
    ("segmentation", {}, np.full((2, 2), 3), "allowed are 0 to 2, and 255 for what is ignored"),
    ("segmentation", {}, np.zeros((2, 2)), "found dtype float64; labels are integers"),
    ("segmentation", {}, np.zeros((3, 2, 2), int), "found int64 [3, 2, 2]; a target is a map [H, W] of classes"),
    ("detection", {}, np.zeros((1, 4)), "found float64 [1, 4]; a target is an array [N, 5]"),
    ("detection", {}, np.array([[1, 2, 3, 4, 3]]), "found label 3; allowed are 0 to 2"),
    ("detection", {}, np.array([[1, 2, 3, 4, 0.5]]), "found class 0.5; classes are whole numbers"),
    ("detection", {}, np.array([[10, 2, 3, 4, 0]]), "not a corner with width and height"),
    ("detection", {}, np.array([[-9, 2, 3, 4, 0]]), "boxes begin inside the image"),
    ("detection", {}, np.array([[np.inf, 2, 3, 4, 0]]), "found 1 values that are nan or infinite"),
    ("regression", {}, np.ones((2, 2)), "found float64 [2, 2]; targets of layout vector are arrays [D]"),
    ("regression", KEYPOINTS, np.ones((4, 3)), "arrays [P, 2] of (x, y)"),
    ("regression", {}, np.array([np.nan, 1]), "leave out such samples, or mend what reads them"),
    ("token", {}, np.array([0, 3]), "allowed are 0 to 2, and -100 for what is ignored"),
    ("token", {}, np.zeros((3, 4), int), "a target is a row of labels, not one-hot"),
    ("token", CTC, [1, 0, 2], "found the blank, 0; targets of CTC have no blank"),
    ("embedding", {}, np.zeros(4), "a vector of zeros has no direction"),
    ("embedding", {}, np.zeros((4, 4)), "targets are vectors [D], all of one length"),
]

OUTPUTS: list[tuple[str, dict[str, Any], list[tuple[int, ...]], list[tuple[int, ...]], str]] = [
    ("classification", {}, [(3,)], [(4,)], "found o0 [4]; needed: logits [3], one for each class, as output 0"),
    ("multilabel", {}, [(3,)], [(3, 1)], "needed: logits [3]"),
    ("segmentation", {}, [(3, 8, 8)], [(4, 8, 8)], "needed: logits [3, H, W] of 3 classes"),
    ("segmentation", {"classes": 2}, [(1, 8, 8)], [(3, 8, 8)], "needed: logits [1 or 2, H, W]"),
    ("detection", {}, [(7, 8, 8), (7, 4, 4)], [(7, 8, 8)], "needed: 2 maps [7, H / s, W / s] (4 edges + 3 classes)"),
    ("detection", {}, [(7, 8, 8), (7, 4, 4)], [(7, 4, 4), (7, 8, 8)], "for the strides 8, 16, the largest map first"),
    ("detection", {"objectness": True}, [(8, 8, 8), (8, 4, 4)], [(7, 8, 8), (7, 4, 4)], "+ 1 objectness"),
    ("regression", {}, [(5,)], [(5, 2)], "needed: values [D] as output 0"),
    ("regression", KEYPOINTS, [(10,)], [(5,)], "needed: key points [P, 2] or [2 P]"),
    ("regression", DENSE, [(1, 8, 8)], [(8,)], "needed: a map [C, H, W] or [H, W]"),
    ("token", {}, [(9, 3)], [(3, 9)], "needed: logits [T, 3] as output 0 (`classes_first`: [K, T])"),
    ("token", {"classes_first": True}, [(3, 9)], [(9, 3)], "needed: logits [3, T]"),
    ("embedding", {}, [(16,)], [(4, 16)], "take the mean over positions in the network"),
    ("embedding", {"output": 1}, [(4, 16), (16,)], [(16,)], "needed: a vector [D] as output 1"),
]


@pytest.mark.parametrize(("kind", "settings", "targets"), GOOD_TARGETS)
def test_good_targets(kind: str, settings: dict[str, Any], targets: list[Any]) -> None:
    """Nothing is said of them."""
    assert open_kit(kind, **{**SETTINGS[kind], **settings}).check_targets(targets) == []


@pytest.mark.parametrize(("kind", "settings", "target", "said"), BAD_TARGETS)
def test_bad_targets(kind: str, settings: dict[str, Any], target: Any, said: str) -> None:  # noqa: ANN401
    """One sentence, which names the first sample and counts the others."""
    (found,) = open_kit(kind, **{**SETTINGS[kind], **settings}).check_targets([target, target, target])
    assert found.startswith("target of sample 0 (and of 2 more): found ")
    assert said in found


@pytest.mark.parametrize(("kind", "settings", "fit", "misfit", "said"), OUTPUTS)
def test_outputs(
    kind: str, settings: dict[str, Any], fit: list[tuple[int, ...]], misfit: list[tuple[int, ...]], said: str
) -> None:
    """Those that fit are passed over; others are told with what is needed."""
    task = open_kit(kind, **{**SETTINGS[kind], **settings})
    assert task.check_outputs({f"o{place}": shape for place, shape in enumerate(fit)}) == []
    (found,) = task.check_outputs({f"o{place}": shape for place, shape in enumerate(misfit)})
    assert said in found


def test_targets_that_do_not_fit_the_input() -> None:
    """Boxes that end outside, and masks of another size than the network's map."""
    boxes = open_kit("detection", classes=1).check_places([np.array([[0, 0, 99, 20, 0]])], 64, 96)
    assert boxes == [
        (
            "target of sample 0: found box [0.0, 0.0, 99.0, 20.0]; boxes end inside the input of 96 x 64 pixels: "
            "give edges in its pixels"
        )
    ]
    shares = np.array([[0.1, 0.2, 0.5, 0.9, 0]])
    assert open_kit("detection", classes=1).check_places([shares, np.zeros((0, 5))], 64, 96) == [
        "targets: found edges from 0.1 to 0.9, shares of the image; edges are in pixels: multiply x by 96 and y by 64"
    ]
    assert open_kit("detection", classes=1).check_places([np.zeros((0, 5)), []], 64, 96) == []
    masks = open_kit("segmentation", classes=2).check_places([np.zeros((4, 4), int), np.zeros((4, 5), int)], 4, 4)
    assert masks == [
        (
            "target of sample 1: found a mask of 4 x 5; masks have the size of the network's output, 4 x 4: "
            "resize them by nearest neighbour"
        )
    ]


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("parsing", {}, "'parsing' does not exist; allowed: classification, multilabel"),
        ("classification", {"classes": []}, "give at least one name"),
        ("classification", {"classes": ["a", "a"]}, "each once"),
        ("detection", {"classes": 1, "strides": (16, 8)}, "in rising order"),
        ("detection", {"classes": 1, "distances": "dfl"}, "allowed: softplus, exp, linear"),
        ("regression", {"layout": "cube"}, "allowed: vector, keypoints, dense"),
        ("regression", {"loss": "l3"}, "allowed: l1, l2, smooth_l1, charbonnier"),
        ("regression", {"unit": ""}, "give that of the values"),
        ("token", {"classes": 2, "decoding": "beam"}, "allowed: labels, ctc"),
        ("embedding", {"loss": "triplet"}, "allowed: cosine, mse"),
    ],
)
def test_wrong_settings(kind: str, settings: dict[str, Any], said: str) -> None:
    """They are refused where the kit is made, with what is allowed."""
    with pytest.raises(ValueError, match=said):
        open_kit(kind, **settings)


def test_every_kind_has_a_table_here() -> None:
    """A new kind is checked, too."""
    assert {*KITS} == {*SETTINGS} == {kind for kind, *_ in BAD_TARGETS} == {kind for kind, *_ in OUTPUTS}


def test_maps_are_of_the_image_by_their_strides() -> None:
    """Strides that fit each other, but not the image, give boxes in other places."""
    maps = {"large": (5, 8, 12), "small": (5, 4, 6)}
    right, wrong = (open_kit("detection", classes=1, strides=strides) for strides in ((8, 16), (16, 32)))
    assert right.check_input(maps, {"image": (3, 64, 96)}) == wrong.check_input(maps, {"tokens": (9,)}) == []
    assert wrong.check_input(maps, {"image": (3, 64, 96)}) == [
        "maps of [(8, 12), (4, 6)] for an image of (64, 96) have strides of [8, 16], not [16, 32]"
    ]


@pytest.mark.parametrize(
    ("layout", "found", "wanted"), [("vector", (1,), (4,)), ("vector", (4,), (1,)), ("keypoints", (2, 2), (1, 2))]
)
def test_values_are_not_broadcast(layout: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """One number would be compared with each of four."""
    for metric in open_kit("regression", layout=layout).metrics:
        with pytest.raises(ValueError, match="the network gives values of shape"):
            metric.statistic(np.zeros(found), np.zeros(wanted))
        metric.statistic(np.zeros(wanted), np.zeros(wanted))


def test_nothing_to_count_is_no_score() -> None:
    """Labels that are all ignored, and texts that are all empty."""
    token = open_kit("token", classes=2)
    assert np.isnan(token.metrics[0].compute([token.metrics[0].statistic(np.zeros(3), np.full(3, -100))]))
    rate = open_kit("token", classes=["-", "a"], decoding="ctc").metrics[0]
    assert np.isnan(rate.compute([rate.statistic([1], [])]))


def test_a_class_may_stand_in_an_array_of_one() -> None:
    """Targets [N, 1] are as good as [N]."""
    for metric in open_kit("classification", classes=2).metrics:
        assert metric.compute([metric.statistic(each, np.array([each])) for each in (0, 1)]) == 1


def test_points_that_change_places_are_there() -> None:
    """They are numbered from 0."""
    points = open_kit("regression", layout="keypoints", swap=[[0, 5]])
    assert points.check_targets([np.zeros((2, 2))]) == [
        "target of sample 0: found 2 points; swap names point 5, and points are numbered from 0"
    ]
