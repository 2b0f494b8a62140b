"""Learning by a kit: what it refuses is an error of the recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.compress.training.task_learner import KitLearner
from pipeline.core.dataset import Arrays, Samples
from pipeline.core.errors import InputError
from pipeline.core.task import Task
from pipeline.tasks.kinds import open_kit


def learner(**augmentation: float) -> KitLearner:
    """Return one of four images with a mask each."""
    masks = (np.arange(4 * 64).reshape(4, 8, 8) % 2).astype(np.uint8)
    samples = Samples({"image": masks[:, None].astype(np.float32)}, masks)
    data = Arrays("stripes", samples, samples, samples, classes=("off", "on"))
    return KitLearner(Task(open_kit("segmentation", classes=2), data), 2, ("logits",), augmentation)


def test_masks_move_with_their_images() -> None:
    """Batches are changed images and their targets, drawn by seed and epoch."""
    cpu = torch.device("cpu")
    for (image,), mask in learner(flip_horizontal=True, shift=2).batches(0, 0, cpu):
        assert ((image[:, 0] == 1) == (mask == 1)).all()
        assert learner().loss(torch.stack([-image[:, 0], image[:, 0]], 1) * 9, mask) < 0.7


def test_what_a_kit_refuses_is_told() -> None:
    """A change that does not go with its targets, and outputs that do not fit them."""
    with pytest.raises(InputError, match="augment: augmentation 'erase' is not for images; allowed: flip_horizontal"):
        next(learner(erase=0.5).batches(0, 0, torch.device("cpu")))
    kit = open_kit("regression", layout="dense")
    samples = Samples({"image": np.zeros((2, 1, 4, 4), np.float32)}, np.zeros((2, 1, 8, 8), np.float32))
    dense = KitLearner(Task(kit, Arrays("zeros", samples, samples, samples)), 2, ("map",), {})
    with pytest.raises(InputError, match=r"the loss: the network gives \[2, 1, 4, 4\], but targets are \[2, 1, 8, 8\]"):
        dense.loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 8, 8))
