"""What a recipe may say of a kind reaches its kit; what it leaves out is no part of what tells tasks apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from pipeline.core.dataset import Arrays, Samples
from pipeline.data.arrays import kit_task
from pipeline.tasks.config import TaskConfig, task_settings

if TYPE_CHECKING:
    from pipeline.core.task import Task

CONFIG: TypeAdapter[Any] = TypeAdapter(TaskConfig)


def opened(config: dict[str, Any], target: Any) -> Task:  # noqa: ANN401 - what the kind takes
    """Return the task of three samples with this target."""
    samples = Samples({"image": np.zeros((3, 1, 16, 16), np.float32)}, [target] * 3)
    return kit_task(CONFIG.validate_python(config), Arrays("three", samples, samples, samples, ("a", "b")), "data")


@pytest.mark.parametrize(
    ("kind", "later"), [("classification", {"label_smoothing"}), ("detection", {"candidates", "reach"})]
)
def test_settings_that_came_later_are_absent_by_default(kind: str, later: set[str]) -> None:
    """So recipes without them keep their cache keys, and bundles their settings."""
    assert later.isdisjoint(task_settings(CONFIG.validate_python({"kind": kind})))
    values: dict[str, Any] = {"label_smoothing": 0.1, "candidates": 7, "reach": 2.0}
    given = task_settings(CONFIG.validate_python({"kind": kind, **{name: values[name] for name in later}}))
    assert later <= given.keys()


def test_label_smoothing_is_in_the_loss() -> None:
    """A right answer that is sure costs something."""
    sure = torch.tensor([[20.0, 0.0]])
    plain, smooth = (
        opened({"kind": "classification", **settings}, 0).kit.loss(sure, torch.tensor([0]))  # type: ignore[attr-defined]
        for settings in ({}, {"label_smoothing": 0.2})
    )
    assert float(plain) < 1e-6
    assert float(smooth) == pytest.approx(0.1 * 20, rel=1e-3)


def test_candidates_and_reach_are_those_of_the_recipe() -> None:
    """One candidate of each class stays of many boxes that do not overlap."""
    box = np.array([[0.0, 0.0, 4.0, 4.0, 0.0]])
    config = {"kind": "detection", "strides": [4], "candidates": 1, "reach": 2.0}
    kit: Any = opened(config, box).kit
    logits = np.full((6, 4, 4), -9.0, np.float32)
    logits[4, :, :] = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert kit.reach == 2.0
    assert kit.settings["candidates"] == 1
    assert len(kit.decode({"map": logits})) == 1
    assert len(opened({**config, "candidates": 300}, box).kit.decode({"map": logits})) > 1
