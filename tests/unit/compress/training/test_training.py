"""Training is deterministic, resumes to the same bytes, and learns."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.training.augmentation import Augmentation, augment, mixup
from pipeline.compress.training.batchnorm import recalibrate_batchnorm
from pipeline.compress.training.distillation import Distillation, target_loss, teacher_loss
from pipeline.compress.training.learner import ImageClassifier
from pipeline.compress.training.training import Hyperparameters, Regulariser, TrainingRun
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import StageError
from tests.defaults import augmentation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVERYTHING = Augmentation(
    flip_horizontal=True,
    flip_vertical=True,
    rotate_90=True,
    shift=1,
    brightness=0.1,
    contrast=0.1,
    erase=0.2,
    mixup=0.2,
)


def dark_or_light(count: int, seed: int) -> Split:
    """Return images of 8x8 pixels whose mean tells the class, in arrays that are read-only, as memory maps are."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    pixels = generator.integers(0, 120, (count, 1, 8, 8)) + 120 * labels[:, None, None, None]
    split = Split(pixels.astype(np.uint8), labels.astype(np.int64))
    split.images.flags.writeable = split.labels.flags.writeable = False
    return split


DATA = Dataset(
    "toy",
    ("dark", "light"),
    Normalisation((0.5,), (0.25,)),
    dark_or_light(96, 0),
    dark_or_light(40, 1),
    dark_or_light(8, 2),
)


def network() -> nn.Module:
    """Return a small network with batch norm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 2)
    )


class Pulling(Regulariser):
    """Pulls weights to zero by an amount that it remembers from epoch to epoch; notes what it is asked."""

    def __init__(self) -> None:
        self.pull = 0.0
        self.steps: list[int] = []

    def begin_epoch(self, model: nn.Module) -> None:
        """Pull harder, by an amount that depends on the weights."""
        self.pull += 0.01 * float(next(model.parameters()).detach().abs().mean())

    def add_gradients(self, model: nn.Module, step: int) -> None:
        """Add the pull times the weights."""
        self.steps.append(step)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.add_(parameter.detach(), alpha=self.pull)

    def end_epoch(self, models: Sequence[nn.Module]) -> None:
        """Set the first filter to zero."""
        for model in models:
            next(model.parameters()).data[0].zero_()

    def state(self) -> dict[str, float]:
        """Return the pull."""
        return {"pull": self.pull}

    def restore(self, state: dict[str, float]) -> None:
        """Take the pull."""
        self.pull = state["pull"]


class Centred(nn.Module):
    """Takes off a mean that it keeps as a plain attribute and moves while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.mean = torch.zeros(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * images.detach().mean()
        logits: Tensor = self.inner(images - self.mean)
        return logits


def training(
    regulariser: Regulariser | None = None, model: nn.Module | None = None, **changes: float | str
) -> TrainingRun:
    """Return a training of the small network with everything switched on."""
    settings: dict[str, float | str] = {
        "epochs": 4,
        "batch": 16,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "momentum": 0.9,
        "warmup": 1.0,
        "ema": 0.9,
        "recalibration_images": 32,
        "schedule": "cosine",
        "from_fraction": 0.0,
    }
    hyperparameters = Hyperparameters(**{**settings, **changes})  # type: ignore[arg-type]
    teacher = Distillation(network().eval(), temperature=2, alpha=0.3, channels=1, size=0, hints=None)
    return TrainingRun(
        model or network(),
        ImageClassifier(DATA, hyperparameters.batch, label_smoothing=0.05, augmentation=EVERYTHING),
        hyperparameters,
        distillation=teacher,
        seed=3,
        regulariser=regulariser,
    )


def ignore(_step: int, _loss: float) -> None:
    """Take no notice of a step."""


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Return whether all tensors are bit-equal."""
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("pull", [None, Pulling])
def test_killed_and_resumed_ends_with_the_same_bytes(optimizer: str, pull: type[Pulling] | None) -> None:
    """Stopping after any epoch and going on from the state gives bit-equal weights, also with a regulariser."""
    whole = training(pull and pull(), optimizer=optimizer)
    while not whole.done:
        whole.run_epoch(ignore)
    expected = whole.finish().state_dict()
    for stop in (1, 3):
        first = training(pull and pull(), optimizer=optimizer)
        for _ in range(stop):
            first.run_epoch(ignore)
        state = copy.deepcopy(first.state())
        second = training(pull and pull(), optimizer=optimizer)
        second.restore(state)
        while not second.done:
            second.run_epoch(ignore)
        assert second.best_epoch == whole.best_epoch
        assert same(expected, second.finish().state_dict())


def test_state_beside_the_state_dict_is_that_of_the_epoch_that_is_kept() -> None:
    """A mean that training moves comes from the best epoch, of the average too, and from before it was killed."""
    whole, first, second = (training(model=Centred()) for _ in range(3))
    means = []
    while not whole.done:
        whole.run_epoch(ignore)
        means.append(whole.model.mean)
    kept = whole.finish().mean
    assert torch.equal(kept, means[whole.best_epoch - 1])
    first.run_epoch(ignore)
    second.restore(copy.deepcopy(first.state()))
    assert torch.equal(second.model.mean, means[0])
    assert torch.equal(second.average.mean, means[0])  # type: ignore[union-attr]


def test_a_regulariser_acts_on_gradients_and_weights() -> None:
    """It sees every step of the whole training, its gradients move the weights, and what it zeroes stays zero."""
    plain, pulled = training(epochs=2), training(Pulling(), epochs=2)
    for run in (plain, pulled):
        while not run.done:
            run.run_epoch(ignore)
    assert isinstance(pulled.regulariser, Pulling)
    assert pulled.regulariser.steps == list(range(12))
    first, second = (next(run.finish().parameters()) for run in (plain, pulled))
    assert first[0].any()
    assert not second[0].any()
    assert not torch.equal(first[1:], second[1:])


def test_a_penalty_keeps_the_last_epoch() -> None:
    """The best epoch is kept, or the last where the regulariser says so."""

    class Penalty(Regulariser):
        keep_last = True

    best, last = training(epochs=6), training(Penalty(), epochs=6)
    for run in (best, last):
        while not run.done:
            run.run_epoch(ignore)
    ranks = [(result.score, -result.validation_loss) for result in best.history]
    assert best.history == last.history
    assert (best.best_epoch, last.best_epoch) == (ranks.index(max(ranks)) + 1, 6)
    assert best.best_epoch < 6
    assert not same(best.finish().state_dict(), last.finish().state_dict())


def test_the_average_warms_up_by_steps() -> None:
    """Decay min(ema, (1 + n) / (10 + n)) after n steps, counted over all epochs."""
    run = training(ema=0.9)
    assert run.average is not None
    mean, value = next(run.average.parameters()), next(run.model.parameters())
    for step, decay in ((0, 2 / 11), (7, 9 / 18), (100, 0.9)):
        mean.data.zero_()
        value.data.fill_(1)
        run._update_average(run.average, step)
        assert float(mean.detach().mean()) == pytest.approx(1 - decay)
    seen: list[int] = []
    run = training(epochs=2)
    run._update_average = lambda _average, step: seen.append(step)  # type: ignore[method-assign]
    while not run.done:
        run.run_epoch(ignore)
    assert seen == list(range(12))


def test_it_learns() -> None:
    """Classes that differ by brightness are told apart after a few epochs, and the best epoch is kept."""
    run = TrainingRun(
        network(),
        ImageClassifier(DATA, 16, label_smoothing=0.0, augmentation=augmentation()),
        Hyperparameters(
            epochs=8,
            batch=16,
            optimizer="adamw",
            learning_rate=0.01,
            weight_decay=0.0,
            momentum=0.9,
            warmup=1,
            ema=0,
            recalibration_images=0,
            schedule="cosine",
            from_fraction=0,
        ),
        distillation=None,
        seed=0,
    )
    while not run.done:
        run.run_epoch(ignore)
    assert max(result.score for result in run.history) > 0.95
    model = run.finish()
    images = torch.from_numpy(DATA.normalisation(DATA.validation.images))
    right = (model(images).argmax(1) == torch.from_numpy(DATA.validation.labels.copy())).float().mean()
    assert float(right) == pytest.approx(max(result.score for result in run.history))


def test_divergence_is_an_error_that_says_what_to_do() -> None:
    """A loss that is not finite stops the stage."""
    run = training(optimizer="sgd")
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(StageError, match=r"diverged.*Lower learning_rate"):
        run.run_epoch(ignore)


def test_augmentation_keeps_shape_and_depends_on_the_generator_alone() -> None:
    """The same seed gives the same images, another seed others; nothing asked for changes nothing."""
    images = torch.rand(8, 3, 12, 12)
    first, second, other = (augment(images, EVERYTHING, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == images.shape
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(augment(images, augmentation(), torch.Generator()), images)


def test_rotation_is_a_rotation() -> None:
    """A turned image is the original or the original turned by a quarter, nothing else."""
    images = torch.arange(2 * 9.0).reshape(2, 1, 3, 3)
    turned = augment(images, augmentation(rotate_90=True), torch.Generator().manual_seed(0))
    for before, after in zip(images, turned, strict=True):
        assert torch.equal(after, before) or torch.equal(after, torch.rot90(before, -1, (1, 2)))


def test_mixup_blends_images_and_targets_alike() -> None:
    """Blended targets are distributions, and the blend of an image with itself is itself."""
    images, targets = torch.ones(4, 1, 2, 2), torch.eye(4)
    blended, mixed = mixup(images, targets, 0.4, torch.Generator().manual_seed(0))
    assert torch.allclose(blended, images)
    assert torch.allclose(mixed.sum(1), torch.ones(4))


def test_losses_by_hand() -> None:
    """A teacher that equals the student costs nothing; cross-entropy of even logits is log 2."""
    logits = torch.tensor([[1.0, 1.0]])
    assert float(teacher_loss(logits, logits, 4)) == pytest.approx(0, abs=1e-7)
    assert float(target_loss(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(np.log(2))
    skewed = torch.tensor([[0.0, np.log(3.0)]])
    expected = 0.5 * np.log(0.5 / 0.5) + 0.5 * np.log(2) - 0.5 * np.log(2)
    assert float(teacher_loss(skewed, skewed, 1)) == pytest.approx(expected, abs=1e-6)
    assert float(teacher_loss(logits, skewed, 1)) == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5), abs=1e-6)


def test_teacher_of_another_size_and_three_channels() -> None:
    """A grey image is repeated and resized for a teacher that wants it so."""
    seen: list[tuple[int, ...]] = []

    class Looks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            return images.mean((2, 3))

    Distillation(Looks(), 2, 0.5, channels=3, size=16, hints=None).outputs((torch.rand(2, 1, 8, 8),))
    assert seen == [(2, 3, 16, 16)]


@pytest.mark.parametrize(("sizes", "expected"), [((4, 4, 1), (4, 5)), ((4, 2), (4, 2)), ((1,), (1,)), ((4, 1), (5,))])
def test_recalibration_ends_in_no_batch_of_one(sizes: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """One image has no variance over the batch: the last one joins the images before it."""
    norm, seen = nn.BatchNorm2d(3), list[int]()
    norm.register_forward_hook(lambda _module, given, _result: seen.append(len(given[0])))
    recalibrate_batchnorm(norm, iter([(torch.randn(size, 3, 4, 4),) for size in sizes]))
    assert tuple(seen) == expected


def test_recalibration_of_vectors_that_leave_one_over() -> None:
    """Batch norm over [N, C] refuses a single image; its statistics are those of batches of two or more."""
    norm, images = nn.BatchNorm1d(2), torch.arange(10.0).reshape(5, 2)
    recalibrate_batchnorm(norm, ((each,) for each in torch.split(images, 4)))
    assert torch.allclose(norm.running_mean, images.mean(0))  # type: ignore[arg-type]


def test_recalibration_replaces_statistics_and_nothing_else() -> None:
    """Running mean and variance become those of the data; weights and momentum stay."""
    norm = nn.BatchNorm2d(1, momentum=0.3)
    batches = [torch.full((4, 1, 2, 2), 2.0), torch.full((4, 1, 2, 2), 4.0)]
    recalibrate_batchnorm(norm, [(each,) for each in batches])
    assert float(norm.running_mean) == pytest.approx(3.0)  # type: ignore[arg-type]
    assert norm.momentum == 0.3
    assert not norm.training
