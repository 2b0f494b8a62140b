"""Images for criteria and judges: which, how many, and how they are normalised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.samples import Samples
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError
from pipeline.data.arrays import image_classifier


def numbered(count: int) -> Split:
    """Return images of one pixel whose value is their number, which is their label too."""
    return Split(np.arange(count, dtype=np.uint8)[:, None, None, None], np.arange(count, dtype=np.int64))


DATA = Dataset("numbers", tuple("abcdefgh"), Normalisation((0.0,), (1 / 255,)), numbered(20), numbered(8), numbered(1))


TASK = image_classifier(DATA)


def samples(images: int = 10, batch: int = 4, *, seed: int = 0, drop_last: bool = False) -> Samples:
    """Return samples of the numbered images."""
    return Samples(lambda: TASK, images, batch, seed, drop_last=drop_last)


def test_images_are_drawn_once_and_normalised() -> None:
    """Every image at most once, each with its label; (pixel / 255 - mean) / std is the pixel itself here."""
    batches = list(samples().training())
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    labels = torch.cat([labels for _, labels in batches])
    assert len(set(labels.tolist())) == 10
    assert torch.allclose(torch.cat([images.flatten() for (images,), _ in batches]), labels.float())


def test_the_choice_depends_on_the_seed_alone() -> None:
    """Equal seeds give equal images in equal order, however large the batches are."""

    def chosen(**settings: int) -> list[int]:
        return [int(label) for _, labels in samples(**settings).training() for label in labels]

    assert chosen(seed=1) == chosen(seed=1, batch=3) != chosen(seed=2)


def test_a_network_of_fixed_batch_gets_whole_batches() -> None:
    """What does not fill a batch is left out."""
    assert [len(labels) for _, labels in samples(drop_last=True).training()] == [4, 4]


def test_more_images_than_there_are() -> None:
    """Training images must be there; of validation images, all there are."""
    with pytest.raises(InputError, match="images is 21, the training split has 20: ask for at most that many"):
        list(samples(21).training())
    assert sum(len(labels) for _, labels in samples(20).validation()) == 8


def test_accuracy_by_hand() -> None:
    """A network that names every number below 4 has half of the eight right."""

    class Names(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return nn.functional.one_hot(images.flatten().round().long().clamp(max=3), 8).float()

    assert samples(8).score(Names(), renew=False) == 0.5
    with pytest.raises(InputError, match="less than one batch of 16"):
        samples(16, 16, drop_last=True).score(Names(), renew=False)


def test_statistics_are_renewed_from_training_images() -> None:
    """The running mean becomes that of the chosen training images; without `renew` it stays."""
    norm = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    samples(20, 20).score(norm, renew=False)
    assert float(norm[0].running_mean) == 0
    samples(20, 20).score(norm, renew=True)
    assert float(norm[0].running_mean) == pytest.approx(9.5)


def test_loss_is_the_mean_over_images() -> None:
    """Cross-entropy of even logits is log 2, whatever the label."""
    assert float(samples().loss(torch.zeros(3, 2), torch.tensor([0, 1, 1]))) == pytest.approx(np.log(2))
