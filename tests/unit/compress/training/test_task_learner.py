"""Learning by a kit and by a user's file: what they refuse is an error of the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline.compress.training.task_learner import FileLearner, KitLearner
from pipeline.core.dataset import Arrays, Samples
from pipeline.core.errors import InputError
from pipeline.core.task import Task
from pipeline.data.task_file import load_task_file
from pipeline.tasks.kinds import open_kit

if TYPE_CHECKING:
    from pathlib import Path


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


FILE = """
import numpy as np
class Error:
    name, unit, higher_is_better = "error", "mm", False
    statistic = staticmethod(lambda prediction, target: 0.5)
class Given:
    metrics = (Error(),)
    eval_samples = staticmethod(lambda split: [(split, 0, 0)])
    preprocess = staticmethod(lambda raw: {"image": np.zeros(2, np.float32), "weight": np.ones(2, np.float32)})
    decode = loss = staticmethod(lambda *given: given)
    def train_batches(self, split, seed, epoch):
        import torch
        image, weight = torch.zeros(3, 2), torch.ones(3, 2)
        return [(INPUTS, 0)]
def task():
    return Given()
"""


def file_learner(folder: Path, inputs: str) -> FileLearner:
    """Return one whose batches have these inputs."""
    file = folder / "task.py"
    file.write_text(FILE.replace("INPUTS", inputs))
    return FileLearner(load_task_file(file, {}), 3, ("y",))


@pytest.mark.parametrize("inputs", ["{'weight': weight, 'image': image}", "(image, weight)"])
def test_a_file_gives_inputs_by_name_or_in_order(tmp_path: Path, inputs: str) -> None:
    """The order of a dict is nobody's."""
    ((image, weight), _) = next(file_learner(tmp_path, inputs).batches(0, 0, torch.device("cpu")))
    assert (float(image.max()), float(weight.min())) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("inputs", "found"), [("{'image': image, 'w': weight}", "image, w"), ("{}", "of an empty dict")]
)
def test_other_names_than_those_of_the_samples_are_refused(tmp_path: Path, inputs: str, found: str) -> None:
    """With those that are allowed."""
    message = rf"task.py: train_batches gives the inputs {found}, expected those of preprocess\(raw\): image, weight"
    with pytest.raises(InputError, match=message):
        next(file_learner(tmp_path, inputs).batches(0, 0, torch.device("cpu")))
