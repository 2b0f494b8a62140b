"""Every kit: perfect outputs score perfectly, the loss teaches, changes move targets, people can read what is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.tasks.kinds import open_kit

MASK = np.array([[0, 0, 1, 2]] * 4)
VECTORS = [np.array([1.0, 0.1]), np.array([0.5, 1.0]), np.array([-1.0, 0.3])]
TAGS = ("O", "B-PER", "I-PER")
LETTERS = ("_", "a", "b", " ")


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return logits [K, ...] with 9 for the label and -9 for others."""
    return np.where(np.arange(classes).reshape(-1, *[1] * labels.ndim) == labels, 9.0, -9.0).astype(np.float32)


def pictures(count: int) -> list[np.ndarray]:
    """Return images [1, 12, 12] from 0 to 1."""
    return [np.random.default_rng(place).random((1, 12, 12)).astype(np.float32) for place in range(count)]


#: Kind, settings, targets of three samples, the outputs of a network that makes no error, the best scores.
PERFECT: list[tuple[str, dict[str, Any], list[Any], list[np.ndarray], list[float]]] = [
    ("classification", {"classes": 3}, [2, 0, 1], [one_hot(np.array(each), 3) for each in (2, 0, 1)], [1, 1, 1]),
    (
        "multilabel",
        {"classes": 3},
        [np.array([1, 0, 1]), np.array([0, 1, 0]), np.array([1, 1, 0])],
        [np.array(each, np.float32) for each in ([9, -9, 9], [-9, 9, -9], [9, 9, -9])],
        [1, 1, 1, 1],
    ),
    ("segmentation", {"classes": 3, "dice": 1.0}, [MASK] * 3, [one_hot(MASK, 3)] * 3, [1, 1]),
    ("segmentation", {"classes": 2}, [MASK == 1] * 3, [np.where(MASK == 1, 9, -9)[None]] * 3, [1, 1]),
    ("regression", {"loss": "smooth_l1"}, [np.array([1.0, -2])] * 3, [np.array([1.0, -2])] * 3, [0, 0]),
    ("regression", {"layout": "keypoints", "loss": "l1"}, [np.ones((2, 2))] * 3, [np.ones(4)] * 3, [0, 0, 0]),
    ("regression", {"layout": "dense", "loss": "charbonnier"}, pictures(3), pictures(3), [100, 1, 0, 0, 1]),
    ("token", {"classes": TAGS}, [np.array([1, 2, 0, -100])] * 3, [one_hot(np.array([1, 2, 0, 0]), 3).T] * 3, [1, 1]),
    (
        "token",
        {"classes": 3, "classes_first": True},
        [np.array([1, 2, 0])] * 3,
        [one_hot(np.array([1, 2, 0]), 3)] * 3,
        [1],
    ),
    (
        "token",
        {"classes": LETTERS, "decoding": "ctc"},
        [[1, 1, 3, 2], [2], [1, 2]],
        [
            one_hot(np.array(each), 4).T
            for each in ([1, 0, 1, 1, 3, 2, 2], [0, 0, 2, 2, 0, 0, 0], [1, 1, 1, 2, 0, 0, 0])
        ],
        [0, 0],
    ),
    ("embedding", {"recall_at": (1,)}, VECTORS, VECTORS, [1, 1, 1]),
    ("embedding", {"loss": "mse", "recall_at": ()}, VECTORS, VECTORS, [1, 1]),
]
NAMES = [f"{kind}-{'-'.join(map(str, settings))}" for kind, settings, *_ in PERFECT]


@pytest.mark.parametrize(("kind", "settings", "targets", "outputs", "best"), PERFECT, ids=NAMES)
def test_perfect_outputs_have_perfect_scores(
    kind: str, settings: dict[str, Any], targets: list[Any], outputs: list[np.ndarray], best: list[float]
) -> None:
    """Through the same functions as those of any network."""
    task = open_kit(kind, **settings)
    assert task.kind == kind
    assert task.check_outputs({"output": outputs[0].shape}) == []
    assert task.check_targets(targets) == []
    found = [task.decode({"output": each}) for each in outputs]
    scores = []
    for metric in task.metrics:
        statistics = [metric.statistic(*pair) for pair in zip(found, targets, strict=True)]
        scores.append(metric.compute(statistics))
        assert metric.range[0] <= scores[-1] <= metric.range[1] + 1e-9
        assert np.isnan(metric.compute([]))
    assert scores == pytest.approx(best, abs=1e-6)
    assert all(isinstance(task.show(each), str) for each in found)


@pytest.mark.parametrize(("kind", "settings", "targets", "outputs", "best"), PERFECT, ids=NAMES)
def test_loss_teaches(
    kind: str, settings: dict[str, Any], targets: list[Any], outputs: list[np.ndarray], best: list[float]
) -> None:
    """Free outputs that follow the loss alone come near the targets, and to a teacher by the distance."""
    del best
    torch.manual_seed(0)
    task, teacher = open_kit(kind, **settings), torch.tensor(np.stack(outputs), dtype=torch.float32) / 4
    collated = task.collate(targets)
    for loss_of in (lambda made: task.loss(made, collated), lambda made: task.distance(made, teacher, 2.0)):
        free = torch.nn.Parameter(torch.randn(len(outputs), *outputs[0].shape) * 0.5)
        optimizer, losses = torch.optim.Adam([free], lr=0.1), []
        for _ in range(120):
            loss = loss_of(free)
            assert loss.ndim == 0
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        least = loss_of(teacher).item() if "distance" in loss_of.__code__.co_names else 0.0
        assert losses[-1] - least < 0.2 * (losses[0] - least), (losses[0], losses[-1])


def test_ignored_places_count_nowhere() -> None:
    """Neither in loss nor in score; a batch in which all is ignored has a loss of zero and no NaN."""
    mask, logits = np.where(MASK == 2, 255, MASK), one_hot(MASK, 3)
    task = open_kit("segmentation", classes=3, dice=1.0)
    wrong = logits.copy()
    wrong[:, MASK == 2] = np.array([9, -9, -9])[:, None]
    losses = [task.loss(torch.from_numpy(each[None]), task.collate([mask])).item() for each in (logits, wrong)]
    assert losses[0] == pytest.approx(losses[1])
    metric = task.metrics[0]
    assert metric.compute([metric.statistic(task.decode({"o": wrong}), mask)]) == 1.0
    assert task.loss(torch.from_numpy(logits[None]), task.collate([np.full((4, 4), 255)])).item() == 0.0
    token = open_kit("token", classes=3)
    assert token.loss(torch.randn(1, 4, 3), token.collate([[-100] * 4])).item() == 0.0
    with pytest.raises(ValueError, match="resize the masks"):
        metric.statistic(np.zeros((2, 2), int), mask)


def test_the_output_that_is_meant() -> None:
    """`output` counts the outputs in the order of forward, in numpy and in torch, in tuples and dicts."""
    task = open_kit("classification", classes=2, output=1)
    assert task.decode({"features": np.ones(5), "logits": np.array([0.0, 1.0])}) == 1
    assert task.decode({"features": np.ones(5), "logits": np.array([np.nan, 1.0])}) == -1
    logits = torch.tensor([[0.0, 9.0]])
    for outputs in ((torch.ones(1, 5), logits), {"features": torch.ones(1, 5), "logits": [logits]}):
        assert task.loss(outputs, task.collate([1])).item() < 0.01


def test_masks_maps_and_points_move_with_their_image() -> None:
    """What an image shows stays where its target says; new edges are ignored, and swapped points change places."""
    mask = np.zeros((8, 10), int)
    mask[2:4, 1:6] = 1
    points, changes = np.array([[1.0, 2.0], [5.0, 3.0]]), {"flip_horizontal": True, "flip_vertical": True, "shift": 2}
    images = {"image": torch.from_numpy(mask).float()[None, None].repeat(12, 1, 1, 1)}

    def draw() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    moved, masks = open_kit("segmentation", classes=2).augment(images, [mask] * 12, changes, draw())
    for image, found in zip(moved["image"], masks, strict=True):
        assert ((found == 1) == (image[0].numpy() == 1)).all()
    assert any((found == 255).any() for found in masks)
    assert len({found.tobytes() for found in masks}) > 6
    large = np.kron(mask, np.ones((2, 2)))[None]
    _, maps = open_kit("regression", layout="dense").augment(images, [large] * 12, changes, draw())
    for image, found in zip(moved["image"], maps, strict=True):
        assert (found[0, ::2, ::2] == image[0].numpy()).all()
    keypoints = open_kit("regression", layout="keypoints", swap=[[0, 1]])
    _, placed = keypoints.augment(images, [points] * 12, {"flip_horizontal": True}, draw())
    assert {tuple(each.ravel()) for each in placed} == {(1, 2, 5, 3), (4, 3, 8, 2)}


def test_series_move_in_time() -> None:
    """Labels of positions go along; spans are masked; labels of a whole series stay."""
    series = {"x": torch.arange(1.0, 13.0)[None, None].repeat(20, 2, 1)}
    labels = np.arange(12) % 3
    token = open_kit("token", classes=3)
    moved, targets = token.augment(series, [labels] * 20, {"time_shift": 3}, torch.Generator().manual_seed(0))
    for row, target in zip(moved["x"], targets, strict=True):
        known = row[0] > 0
        assert ((row[0][known].numpy() - 1) % 3 == target[known.numpy()]).all()
        assert (target[~known.numpy()] == -100).all()
    assert len({target.tobytes() for target in targets}) == 7
    kit = open_kit("classification", classes=3)
    masked, same = kit.augment(series, [1] * 20, {"time_mask": 0.5, "noise": 0.1}, torch.Generator().manual_seed(0))
    assert same == [1] * 20
    gone = (masked["x"] == 0).sum(dim=(1, 2))
    assert 0 < gone.max() <= 12
    with pytest.raises(ValueError, match=r"needs series \[B, F, T\] of floats; found ids \[2, 5\]"):
        token.augment({"ids": torch.zeros(2, 5)}, [0, 0], {"time_shift": 1}, torch.Generator())


def test_images_are_scaled() -> None:
    """Bytes become floats, with mean and deviation where they are given; other inputs stay."""
    raw = {"image": np.full((1, 2, 2), 51, np.uint8), "ids": np.array([1, 2])}
    plain = open_kit("classification", classes=2).preprocess(raw)
    assert plain["image"].dtype == np.float32
    assert plain["image"][0, 0, 0] == pytest.approx(0.2)
    assert plain["ids"] is raw["ids"]
    scaled = open_kit("classification", classes=2, mean=[0.1, 0.2, 0.3], std=[0.1, 0.1, 0.1]).preprocess(raw)["image"]
    assert scaled.shape == (3, 2, 2)
    assert scaled[:, 0, 0] == pytest.approx([1, 0, -1], abs=1e-6)


def test_pictures_and_words_for_people() -> None:
    """Boxes and points are outlined, masks tinted; lines say class and share."""
    grey = np.full((12, 16), 100, np.uint8)
    boxes = open_kit("detection", classes=("cat", "dog")).draw(
        np.array([[2, 3, 9, 8, 0.9, 1], [0, 0, 99, 99, 0.5, 0]]), grey
    )
    assert boxes.shape == (12, 16, 3)
    changed = (boxes != 100).any(axis=2)
    assert changed[3, 2:9].all()
    assert changed[7, 2:9].all()
    assert not changed[4:7, 3:8].any()
    assert changed[0].all()
    segmentation = open_kit("segmentation", classes=("sky", "cat", "dog"))
    tinted = segmentation.draw(np.eye(12, 16, dtype=int), grey)
    assert ((tinted != 100).any(axis=2) == np.eye(12, 16, dtype=bool)).all()
    assert segmentation.show(MASK) == "sky 50.0%, cat 25.0%, dog 25.0%"
    points = open_kit("regression", layout="keypoints")
    assert (points.draw(np.array([[4.0, 5.0], [40.0, 5.0]]), grey) != 100).any(axis=2).sum() == 5
    assert points.show(np.array([[4.0, 5.0]])) == "(4.0, 5.0)"
    dense = open_kit("regression", layout="dense")
    assert dense.draw(pictures(1)[0], grey).shape == (12, 12, 3)
    assert dense.show(np.ones((1, 2, 2))) == "map 1 x 2 x 2, 1 to 1, mean 1"
    assert open_kit("multilabel", classes=("a", "b", "c")).show(np.array([0.6, 0.2, 0.9])) == "c 0.90, a 0.60"
    assert open_kit("token", classes=TAGS).show(np.array([1, 2, 0])) == "B-PER I-PER O"
    assert open_kit("token", classes=LETTERS, decoding="ctc").show([1, 2, 3, 1]) == "ab a"
    assert open_kit("classification", classes=2).show(-1) == "no class"
    assert open_kit("embedding").show(np.array([3.0, 4.0])) == "vector of 2, length 5: 3 4 ..."
