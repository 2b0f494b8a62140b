"""Smaller images as a move: chosen where they lose least, with a timer whose times grow with the area of images."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.artifact import TensorSpec
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError, UnreachableError
from pipeline.core.stage import SilentProgress
from pipeline.core.task import Task
from pipeline.data.arrays import image_classifier
from pipeline.network.stored import load_network, write_network
from pipeline.pricing import sizes
from pipeline.pricing.sizes import candidate_sides, image_stride
from tests.unit.pricing.fake_timer import Law
from tests.unit.stages.prune_bench import FILES, Bench, image_network, told
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.artifact import Artifact

#: Side of the images, and the smaller ones that are looked at.
SIDE = 12
SMALLER = (9, 6)
MOVES = ["channels", "blocks", "resolution"]


def drawn(pattern: str, count: int, seed: int) -> NDArray[np.uint8]:
    """Return images [N, 12, 12] of three classes: of another brightness, or of finer and finer stripes."""
    noise = np.random.default_rng(seed).integers(0, 30, (count, SIDE, SIDE))
    rows = np.arange(SIDE)[:, None] + np.zeros(SIDE, int)
    stripes = np.stack([rows // 3 % 2, rows % 2, rows.T % 2])
    levels = np.stack([np.full((SIDE, SIDE), level) for level in (0.0, 0.5, 1.0)])
    chosen = (levels if pattern == "brightness" else stripes)[np.arange(count) % 3]
    return (noise + 200 * chosen).astype(np.uint8)


def task_at(side: int, pattern: str) -> Task:
    """Return images of a side, resized from those of 12 pixels, as a task that can be had at any side."""

    def split(count: int, seed: int) -> Split:
        whole = [Image.fromarray(image) for image in drawn(pattern, count, seed)]
        pixels = [np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in whole]
        return Split(np.stack(pixels)[:, None], np.arange(count) % 3)

    data = Dataset("drawn", ("a", "b", "c"), Normalisation((0.5,), (0.25,)), split(48, 0), split(24, 1), split(24, 2))
    made = image_classifier(data)
    return Task(made.kit, made.data, made.output_names, resized=cache(lambda other: task_at(other, pattern)))


def trained(folder: Path, pattern: str) -> Artifact:
    """Return a network that tells the three classes apart at 12 pixels a side."""
    given = image_network(folder)
    given = given.model_copy(update={"inputs": (TensorSpec(name="input", shape=(-1, 1, SIDE, SIDE)),)})
    data = task_at(SIDE, pattern).dataset()
    images, labels = torch.from_numpy(data.normalisation(data.train.images)), torch.from_numpy(data.train.labels)
    network = load_network(given).train()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    write_network(given.folder, network.eval(), parent=given)
    return given


@pytest.fixture
def resizing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return what runs the stage where times grow with the area, and images may be small."""
    monkeypatch.setattr(sizes, "LEAST_SIDE", 4)
    monkeypatch.setattr(sizes, "_STEPS", (3,))
    bench.use(Law(granule=1, side=SIDE, value=1e-4))
    return bench


def test_smaller_images_are_taken_where_they_lose_least(resizing: Bench) -> None:
    """Brightness is there at any size, so pixels go before channels; the record counts from the given size."""
    given = trained(resizing.folder / "network", "brightness")
    resizing.task = task_at(SIDE, "brightness")
    outcome = resizing.run(given, "pruned", moves=MOVES, target={"latency": "0.35x"}, floor=0.3)
    found = told(outcome)
    (move,) = (each for each in found.moves if each.kind == "resolution")
    assert (move.name, move.before) == ("input", SIDE)
    assert move.after in SMALLER
    assert outcome.inputs[0].shape == (-1, 1, move.after, move.after)
    result = given.model_copy(update={"inputs": outcome.inputs, "folder": resizing.folder / "pruned"})
    assert resizing.share(given, "pruned", result) == pytest.approx(found.ratio.value, rel=1e-3)
    assert found.ratio.value <= 0.35
    assert [each.side for each in found.sizes] == [SIDE, *SMALLER]
    chosen = next(each for each in found.sizes if each.side == move.after)
    assert chosen.why == ""
    assert chosen.loss == min(each.loss for each in found.sizes if each.loss is not None)
    assert move.saved_ms > 0
    assert sum(each.before_ms for each in found.layers) <= found.whole_ms.value
    macs = outcome.changed["macs"]
    assert macs["after"] < macs["before"] * (move.after / SIDE) ** 2 * 1.01


def test_images_stay_where_pixels_are_what_matters(resizing: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripes of one pixel are gone at half the size: channels leave instead, and the sizes stand in the record."""
    monkeypatch.setattr(sizes, "_STEPS", (6,))
    given = trained(resizing.folder / "network", "stripes")
    resizing.task = task_at(SIDE, "stripes")
    outcome = resizing.run(given, "pruned", moves=MOVES, target={"latency": "0.75x"}, floor=0.3)
    found = told(outcome)
    assert outcome.inputs == given.inputs
    assert {each.kind for each in found.moves} <= {"channels", "block"}
    assert found.met
    assert found.sizes[0].why == ""
    assert [(each.side, each.why) for each in found.sizes[1:]] == [(6, "more is lost than with 12 pixels a side")]


def test_smaller_images_alone(resizing: Bench) -> None:
    """Nothing else may leave: the side that loses least of those that are fast enough."""
    given = trained(resizing.folder / "network", "brightness")
    resizing.task = task_at(SIDE, "brightness")
    outcome = resizing.run(given, "pruned", moves=["resolution"], target={"latency": "0.5x"})
    found = told(outcome)
    (move,) = found.moves
    assert outcome.inputs[0].shape[-1] == move.after in SMALLER
    assert outcome.changed["widths"] == {}
    assert found.met
    assert found.ratio.value <= 0.5
    with pytest.raises(UnreachableError, match=r"with moves resolution, with images of 12, 9, 6 pixels: its file"):
        resizing.run(given, "less", moves=["resolution"], target={"latency": "0.05x"})


def test_a_killed_run_ends_in_the_same_bytes(resizing: Bench) -> None:
    """The side is chosen once; two steps with training follow at it."""
    given = trained(resizing.folder / "network", "brightness")
    resizing.task = task_at(SIDE, "brightness")
    settings = {
        "moves": MOVES,
        "target": {"latency": "0.35x"},
        "floor": 0.3,
        "schedule": {"method": "iterative", "steps": 2, "epochs": 1, "batch": 8},
    }
    for after in (10, 30):
        with pytest.raises(KeyboardInterrupt):
            resizing.run(given, "killed", Stops(after), **settings)
    resumed = resizing.run(given, "killed", **settings)
    resizing.fresh_cache("other")
    whole = resizing.run(given, "whole", **settings)
    assert resumed.inputs == whole.inputs
    assert resumed.inputs != given.inputs
    for file in FILES:
        assert (resizing.folder / "killed" / file).read_bytes() == (resizing.folder / "whole" / file).read_bytes()
    assert resumed.changed["latency"]["sizes"] == whole.changed["latency"]["sizes"]


class Notes(SilentProgress):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def test_a_network_of_one_size(resizing: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and channels alone leave; where nothing else may it is refused. Data without a size are too."""
    monkeypatch.setattr(sizes, "_STEPS", (2,))
    given = image_network(resizing.folder / "network", "Fixed")
    progress = Notes()
    settings = {"target": {"latency": "0.8x"}, "floor": 0.3}
    with pytest.raises(InputError, match="moves: found resolution with data whose images have no size"):
        resizing.run(given, "refused", moves=MOVES, **settings)
    task = resizing.task
    resizing.task = Task(task.kit, task.data, task.output_names, resized=lambda _: task)
    outcome = resizing.run(given, "same", progress, moves=MOVES, **settings)
    assert outcome.inputs == given.inputs
    assert [note for note in progress.notes if "are no move" in note] == [
        next(note for note in progress.notes if note.startswith("images of 4 pixels a side are no move"))
    ]
    with pytest.raises(InputError, match="takes no smaller images, and nothing else may leave"):
        resizing.run(given, "alone", moves=["resolution"], **settings)


@pytest.mark.parametrize(
    ("side", "stride", "found"),
    [
        (160, 32, (144, 128, 96, 80)),
        (224, 32, (192, 160, 128)),
        (128, 16, (112, 96, 80, 64)),
        (64, 4, (56, 48, 40, 32)),
        (40, 8, (32,)),
        (32, 32, ()),
        (28, 4, ()),
    ],
)
def test_sides_that_are_looked_at(side: int, stride: int, found: tuple[int, ...]) -> None:
    """At most four, down to half and to 32 pixels, at multiples of the stride where these are enough."""
    assert candidate_sides(side, stride) == found


def test_stride_of_a_network() -> None:
    """That of the smallest map with places; pooling to one number has none."""
    halving = torch.nn.Conv2d(1, 1, 3, 2, 1)
    network = torch.nn.Sequential(halving, torch.nn.MaxPool2d(2), halving, torch.nn.AdaptiveAvgPool2d(1))
    assert image_stride(network, (torch.zeros(2, 1, 64, 64),)) == 8
    assert image_stride(network, (torch.zeros(2, 1, 50, 50),)) == 8
