"""What a training learns by: settings without use for its task are refused, and leave no trace where they are off."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from pipeline.compress.training.task_learner import KitLearner
from pipeline.core.dataset import Arrays, Dataset, Normalisation, Samples, Split
from pipeline.core.errors import InputError
from pipeline.core.task import Task
from pipeline.data.arrays import image_classifier
from pipeline.network.training import _teacher, learner_of
from pipeline.network.training_config import Augment, TrainingConfig
from pipeline.tasks.kinds import open_kit

if TYPE_CHECKING:
    from pipeline.core.stage import Context

SERIES = Samples({"x": np.ones((4, 2, 12), np.float32)}, np.arange(4) % 2)
IMAGES = Split(np.zeros((4, 1, 8, 8), np.uint8), np.arange(4) % 2)
TASKS = {
    "images": image_classifier(Dataset("i", ("a", "b"), Normalisation((0.5,), (0.5,)), IMAGES, IMAGES, IMAGES)),
    "series": Task(open_kit("classification", classes=2), Arrays("s", SERIES, SERIES, SERIES, ("a", "b"))),
    "file": Task(cast("Any", SimpleNamespace(kind="file", metrics=(SimpleNamespace(name="m", unit="", range=(0, 1),
                 higher_is_better=True),), given=None, path="task.py")), Arrays("f", SERIES, SERIES, SERIES)),
}  # fmt: skip


def context(name: str) -> Context:
    """Return what a learner looks at."""
    outputs = (SimpleNamespace(name="logits"),)
    return cast("Context", SimpleNamespace(task=lambda: TASKS[name], original=SimpleNamespace(outputs=outputs)))


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        ("images", {"augment": {"time_shift": 2}}, "augment.time_shift is not there for a classifier of images"),
        ("series", {"label_smoothing": 0.1}, "label_smoothing is there for a classifier of images"),
        ("file", {"augment": {"shift": 2}}, "augment is not there for a task of your own file"),
        ("file", {"label_smoothing": 0.1}, "and the task is file: remove it"),
        ("file", {}, "the task has no train_batches and no loss"),
    ],
)
def test_settings_without_use_are_refused(task: str, settings: dict[str, Any], said: str) -> None:
    """Instead of being passed over."""
    config = TrainingConfig.model_validate({"epochs": 1, "batch": 2, "learning_rate": 0.1, **settings})
    with pytest.raises(InputError, match=said):
        learner_of(config, context(task))


def test_series_are_changed_in_time() -> None:
    """By the keys of a recipe."""
    augment = {"time_shift": 3, "time_mask": 0.5, "gain": 0.2, "noise": 0.1}
    config = TrainingConfig.model_validate({"epochs": 1, "batch": 4, "learning_rate": 0.1, "augment": augment})
    learner = learner_of(config, context("series"))
    assert isinstance(learner, KitLearner)
    ((inputs,), targets), *_ = learner.batches(0, 0, cast("Any", "cpu"))
    assert (inputs == 0).any()
    assert inputs.std() > 0.1
    assert sorted(targets.tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize(("side", "size"), [(8, 0), (6, 8)])
def test_the_original_teaches_at_its_own_size(monkeypatch: pytest.MonkeyPatch, side: int, size: int) -> None:
    """Also where the stage works with smaller images; where it does not, nothing is resized."""
    monkeypatch.setattr("pipeline.network.training.load_network", lambda _: "teacher")
    large = replace(TASKS["images"], resized=lambda _: large)
    pixels = np.zeros((4, 1, side, side), np.uint8)
    split = Split(pixels, np.arange(4) % 2)
    data = replace(large.dataset(), train=split, validation=split, test=split)
    task = replace(large, data=data) if side != 8 else large
    original = SimpleNamespace(inputs=large.inputs(1))
    config = TrainingConfig.model_validate({"epochs": 1, "distill": {}})
    assert config.distill is not None
    found = _teacher(config.distill, cast("Context", SimpleNamespace(task=lambda: task, original=original)))
    assert (found.teacher, found.size) == ("teacher", size)


def test_changes_that_are_off_leave_no_trace() -> None:
    """So configurations from before they existed have the same keys."""
    assert {*Augment().model_dump()} == {
        *("flip_horizontal", "flip_vertical", "rotate_90", "shift", "brightness", "contrast", "erase", "mixup")
    }
    assert Augment(noise=0.5).model_dump()["noise"] == 0.5
