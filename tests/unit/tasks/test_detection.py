"""Detection: decoding, assignment and loss, and boxes that move with their image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.tasks.detection import Detection, moved_boxes
from pipeline.tasks.detection_loss import _cells, _overlaps, _owners

BOXES = np.array([[10, 12, 30, 44, 1], [33, 5, 60, 21, 0], [2, 2, 63, 61, 2]], dtype=np.float32)


def inverse(distances: np.ndarray, how: str) -> np.ndarray:
    """Return the outputs that stand for distances."""
    if how == "linear":
        return distances
    return np.log(distances) if how == "exp" else np.log(np.expm1(distances))


def perfect(task: Detection, boxes: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Return maps that a network without error would give: each owned cell has its box, and a certain class."""
    channels = 4 + len(task.classes) + int(task.objectness)
    maps = [torch.zeros(1, channels, size // stride, size // stride) for stride in task.strides]
    cells = _cells(maps, task)
    owners = _owners(cells, torch.from_numpy(boxes)).numpy()
    flat = np.full((len(owners), channels), -20, dtype=np.float32)
    for cell in np.flatnonzero(owners >= 0):
        (x, y), stride, box = cells.centres[cell].numpy(), float(cells.strides[cell]), boxes[owners[cell]]
        edges = np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / stride
        flat[cell, :4] = inverse(np.maximum(edges, 1e-4), task.distances)
        flat[cell, 4 + int(box[4])] = 20
        if task.objectness:
            flat[cell, -1] = 20
    parts = np.split(flat, np.cumsum([each[0, 0].numel() for each in maps])[:-1])
    shaped = (part.T.reshape(each.shape[1:]) for part, each in zip(parts, maps, strict=True))
    return {f"map{place}": each for place, each in enumerate(shaped)}


@pytest.mark.parametrize("objectness", [False, True])
@pytest.mark.parametrize("distances", ["softplus", "exp", "linear"])
def test_perfect_maps_give_perfect_boxes(distances: str, objectness: bool) -> None:  # noqa: FBT001
    """One box for each true one, in pixels; both metrics are 1."""
    task = Detection(classes=3, strides=(8, 16), distances=distances, objectness=objectness)
    outputs = perfect(task, BOXES, 64)
    assert task.check_outputs({name: each.shape for name, each in outputs.items()}) == []
    found = task.decode(outputs)
    order = np.argsort(found[:, 5])
    assert found[order][:, :4] == pytest.approx(BOXES[np.argsort(BOXES[:, 4])][:, :4], abs=1e-2)
    for metric in task.metrics:
        assert metric.compute([metric.statistic(found, BOXES)]) == 1.0
    assert "1 1.00 (10, 12, 30, 44)" in task.show(found).splitlines()
    assert "cat 1.00 (33, 5, 60, 21)" in task.show(found, None, ("cat", "dog", "cow"))


def test_limits_of_decoding() -> None:
    """A threshold, the best candidates of a class, the best boxes, and edges cut at the image."""
    outputs = perfect(Detection(classes=3, strides=(8, 16)), BOXES, 64)
    assert len(Detection(classes=3, strides=(8, 16), detections=2).decode(outputs)) == 2
    assert len(Detection(classes=3, strides=(8, 16), iou_threshold=1.0, candidates=1).decode(outputs)) == 3
    nothing = {name: np.full_like(each, -20) for name, each in outputs.items()}
    task = Detection(classes=3, strides=(8, 16))
    assert task.decode(nothing).shape == (0, 6)
    assert task.show(task.decode(nothing)) == "nothing found"
    large = {name: np.full_like(each, 5) for name, each in outputs.items()}
    assert task.decode(large)[:, :4].min() >= 0
    assert task.decode(large)[:, :4].max() <= 64


def test_every_box_has_a_cell() -> None:
    """However small, and wherever it lies; the smaller of two boxes has a cell that both could have."""
    task, maps = Detection(classes=1), [torch.zeros(1, 5, 96 // stride, 96 // stride) for stride in (8, 16, 32)]
    cells = _cells(maps, task)
    random = np.random.default_rng(0)
    for _ in range(50):
        corner, side = random.uniform(0, 90, 2), random.uniform(0.5, 90, 2)
        box = np.minimum(np.r_[corner, corner + side], 96)
        owners = _owners(cells, torch.tensor(np.array([[*box, 0]]), dtype=torch.float32))
        assert (owners == 0).any(), box
        strides = cells.strides[owners == 0].unique()
        half = max(box[2:] - box[:2]) / 2
        assert strides.tolist() == [8.0 if half <= 32 else 16.0 if half <= 64 else 32.0]
    nested = torch.tensor([[8, 8, 56, 56, 0], [24, 24, 40, 40, 0]], dtype=torch.float32)
    inner = _owners(cells, nested)[(cells.centres == 28).all(dim=1)]
    assert inner[0] == 1
    assert (_owners(cells, torch.zeros(0, 5)) == -1).all()


def test_generalised_overlap() -> None:
    """Pairs worked out by hand: the same box, half of it, and two apart."""
    one = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 1, 1]])
    other = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 4], [3, 0, 4, 1]])
    overlap, generalised = _overlaps(one, other)
    assert overlap.tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert generalised.tolist() == pytest.approx([1.0, 0.5, -0.5])


@pytest.mark.parametrize("objectness", [False, True])
def test_learns_two_images_by_heart(objectness: bool) -> None:  # noqa: FBT001
    """Free maps, moved by the loss alone, come to perfect boxes; a sample without boxes is one of them."""
    torch.manual_seed(0)
    task = Detection(classes=3, strides=(8, 16), objectness=objectness)
    maps = [torch.nn.Parameter(torch.randn(3, 7 + objectness, 64 // s, 64 // s) * 0.1) for s in (8, 16)]
    truth = [BOXES[:2], BOXES[2:], np.zeros((0, 5))]
    targets, optimizer = task.collate(truth), torch.optim.Adam(maps, lr=0.1)
    losses = []
    for _ in range(150):
        loss = task.loss(tuple(maps), targets)
        assert loss.ndim == 0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    outputs = [{str(place): each[i].detach().numpy() for place, each in enumerate(maps)} for i in range(3)]
    metric = task.metrics[0]
    statistics = [metric.statistic(task.decode(each), t) for each, t in zip(outputs, truth, strict=True)]
    assert metric.compute(statistics) > 0.9
    near = [each.detach() + 0.5 for each in maps]
    same, other = (task.distance(each, maps, 1.0).item() for each in ([*maps], near))
    assert other > same >= 0
    assert torch.isfinite(task.loss(tuple(maps), task.collate([[], [], []])))


def test_boxes_move_with_their_image() -> None:
    """A white box stays where its target says after flips and shifts; one that leaves the image is dropped."""
    task, generator = Detection(classes=1), torch.Generator().manual_seed(0)
    images = torch.zeros(16, 1, 32, 40)
    images[:, :, 6:12, 5:21] = 1
    targets = [np.array([[5, 6, 21, 12, 0]])] * 16
    changes = {"flip_horizontal": True, "flip_vertical": True, "shift": 4, "brightness": 0.0}
    moved, boxes = task.augment({"image": images}, targets, changes, generator)
    places = set()
    for image, rows in zip(moved["image"], boxes, strict=True):
        left, top, right, bottom = (int(each) for each in rows[0, :4])
        assert image.sum() == image[:, top:bottom, left:right].sum() == 16 * 6
        places.add((left, top))
    assert len(places) > 8
    again = task.augment({"image": images}, targets, changes, torch.Generator().manual_seed(0))
    assert torch.equal(again[0]["image"], moved["image"])
    with pytest.raises(ValueError, match="'erase' is not for images; allowed: flip_horizontal"):
        task.augment({"image": images}, targets, {"erase": 0.5}, generator)
    from pipeline.tasks.augmenting import Move  # noqa: PLC0415

    shifted = moved_boxes(targets[0], Move(mirrored=False, upside_down=False, right=30, down=0, height=32, width=40))
    assert shifted.tolist() == [[35, 6, 40, 12, 0]]
    gone = moved_boxes(targets[0], Move(mirrored=False, upside_down=False, right=33, down=0, height=32, width=40))
    assert gone.shape == (0, 5)
