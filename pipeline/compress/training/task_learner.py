"""Learning by a kit's own loss, or by that of the user's file; both judge by the task's metric."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils._pytree import tree_leaves, tree_map_only

from pipeline.compress.training.inference import forward_outputs
from pipeline.compress.training.layout import for_kernels
from pipeline.compress.training.seeds import epoch_seed
from pipeline.core.errors import InputError, StageError
from pipeline.core.task import score_of, statistics_of
from pipeline.core.user_code import user_code_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.compress.training.learner import Batch
    from pipeline.core.dataset import Places, SplitName
    from pipeline.core.task import Task

_EVALUATION_BATCH = 64


class TaskLearner:
    """What learning by a kit and by a user's file have in common: evaluation, and inputs as they are."""

    layout = torch.channels_last

    def __init__(self, task: Task, batch: int, output_names: Sequence[str]) -> None:
        self.task, self.batch, self.output_names = task, batch, tuple(output_names)
        self.metric, self.higher_is_better = task.judged.name, task.judged.higher_is_better

    def inputs(self, count: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
        """Yield the inputs of training samples as they are."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.task.count("train"), generator=generator)[:count]
        for chosen in torch.split(order, self.batch):
            yield tuple(self.tensors("train", chosen.numpy(), device).values())

    def outputs(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:  # noqa: ANN401 - what forward returns
        """Return what the network's forward returns."""
        return model(*inputs)

    def evaluate(self, model: nn.Module, device: torch.device) -> tuple[float, float | None]:
        """Return the score on the validation split, negative where lower is better, and the mean loss."""
        metric, total, statistics = self.task.metrics[0], self.task.count("validation"), list[Any]()
        losses: list[float] = []
        for start in range(0, total, _EVALUATION_BATCH):
            places = range(start, min(start + _EVALUATION_BATCH, total))
            inputs = tuple(self.tensors("validation", places, device).values())
            found = [each.float().numpy(force=True) for each in forward_outputs(model, inputs)]
            if not all(np.isfinite(each).all() for each in found):
                raise StageError(f"the network's outputs for validation samples from {start} on are not finite")
            targets = self.task.targets("validation", places)
            with user_code_errors(f"the metric {metric.name} cannot be computed"):
                made = self.task.predictions(dict(zip(self.output_names, found, strict=True)))
                statistics += statistics_of(metric, made, targets)
            if (loss := self.validation_loss(model, inputs, targets)) is not None:
                losses.append(loss * len(places))
        score = score_of(metric, statistics)
        return score if metric.higher_is_better else -score, sum(losses) / total if losses else None

    def validation_loss(self, model: nn.Module, inputs: tuple[Tensor, ...], targets: Sequence[Any]) -> float | None:
        """Return the loss of validation samples; None where the task has none for them."""
        del model, inputs, targets
        return None

    def tensors(self, split: SplitName, places: Places, device: torch.device) -> dict[str, Tensor]:
        """Return the inputs of samples on a device."""
        feeds = self.task.feeds(split, places)
        return {name: for_kernels(torch.from_numpy(values).to(device), self.layout) for name, values in feeds.items()}


class KitLearner(TaskLearner):
    """Learns by the loss of a kit, with the kit's random changes, which move targets too."""

    def __init__(self, task: Task, batch: int, output_names: Sequence[str], augmentation: Mapping[str, Any]) -> None:
        super().__init__(task, batch, output_names)
        self.kit: Any = task.kit  # beside what is asked of every kit, those that come with the program have a loss
        self.augmentation = {name: value for name, value in augmentation.items() if value}

    @property
    def steps(self) -> int:
        """Steps in one epoch; the last incomplete batch is left out."""
        return max(1, self.task.count("train") // self.batch)

    def batches(self, seed: int, epoch: int, device: torch.device) -> Iterator[Batch]:
        """Yield changed inputs and targets, in an order drawn by (seed, epoch)."""
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        order = torch.randperm(self.task.count("train"), generator=generator).numpy()
        for step in range(self.steps):
            chosen = order[step * self.batch : (step + 1) * self.batch]
            inputs = self.tensors("train", chosen, torch.device("cpu"))
            targets = [*self.task.targets("train", chosen)]
            if self.augmentation:
                with kit_errors("augment"):
                    inputs, targets = self.kit.augment(inputs, targets, self.augmentation, generator)
            placed = tuple(for_kernels(each.to(device), self.layout) for each in inputs.values())
            yield placed, _placed(self.kit.collate(targets), device)

    def loss(self, outputs: Any, target: Any) -> Tensor:  # noqa: ANN401 - as the kit has them
        """Return the kit's loss."""
        with kit_errors("the loss"):
            found: Tensor = self.kit.loss(outputs, target)
        return found

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:  # noqa: ANN401
        """Return the kit's distance from a teacher's outputs."""
        found: Tensor = self.kit.distance(student, teacher, temperature)
        return found

    def validation_loss(self, model: nn.Module, inputs: tuple[Tensor, ...], targets: Sequence[Any]) -> float:
        """Return the kit's loss of validation samples."""
        with torch.no_grad():
            return float(self.kit.loss(model(*inputs), _placed(self.kit.collate([*targets]), inputs[0].device)))


class FileLearner(TaskLearner):
    """Learns by the loss and the batches of a user's file."""

    def __init__(self, task: Task, batch: int, output_names: Sequence[str]) -> None:
        super().__init__(task, batch, output_names)
        kit: Any = task.kit
        self.kit, self.given, self.path = kit, kit.given, kit.path
        missing = [name for name in ("train_batches", "loss") if not callable(getattr(self.given, name, None))]
        if missing:
            raise InputError(f"{self.path}: the task has no {' and no '.join(missing)}, which a training needs")
        self.steps = self._steps()

    def batches(self, seed: int, epoch: int, device: torch.device) -> Iterator[Batch]:
        """Yield what the file gives for an epoch; arrays become tensors."""
        for found in self._iterator(seed, epoch):
            if not isinstance(found, tuple) or len(found) != 2:  # noqa: PLR2004 - inputs and target
                raise InputError(
                    f"{self.path}: train_batches gives a {type(found).__name__}, expected pairs (inputs, target)"
                )
            inputs, target = found
            given = self._in_order(inputs) if isinstance(inputs, Mapping) else inputs
            given = [given] if isinstance(given, Tensor | np.ndarray) else [*given]
            placed = (for_kernels(torch.as_tensor(each).to(device), self.layout) for each in given)
            yield tuple(placed), _placed(target, device)

    def _in_order(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Return inputs by name as the network takes them. Raises InputError when they are not those of samples."""
        names = [spec.name for spec in self.task.inputs(self.batch)]
        if {*inputs} != {*names}:
            raise InputError(
                f"{self.path}: train_batches gives the inputs {', '.join(map(str, inputs)) or 'of an empty dict'}, "
                f"expected those of preprocess(raw): {', '.join(names)}"
            )
        return [inputs[name] for name in names]

    def loss(self, outputs: Any, target: Any) -> Tensor:  # noqa: ANN401 - as the user decides
        """Return the file's loss. Raises InputError when it is no scalar."""
        with self.kit.calling("loss(outputs, target)"):
            found = self.given.loss(outputs, target)
        return self._scalar(found, "loss(outputs, target)")

    def distance(self, student: Any, teacher: Any, temperature: float) -> Tensor:  # noqa: ANN401
        """Return the file's distance, else the mean squared difference of all outputs."""
        own = getattr(self.given, "distance", None)
        if own is None:
            return sum((mse_loss(*pair) for pair in zip(tree_leaves(student), tree_leaves(teacher), strict=True)),
                       start=torch.zeros(()))  # fmt: skip
        del temperature
        with self.kit.calling("distance(student, teacher)"):
            found = own(student, teacher)
        return self._scalar(found, "distance(student, teacher)")

    def _scalar(self, found: Any, call: str) -> Tensor:  # noqa: ANN401 - whatever the user's code gave
        if isinstance(found, Tensor) and found.ndim == 0:
            return found
        kind = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"{self.path}: {call} returned {kind}, expected a scalar: take its mean")

    def _iterator(self, seed: int, epoch: int) -> Iterator[Any]:
        with self.kit.calling(f"train_batches('train', {seed}, {epoch})"):
            iterator = iter(self.given.train_batches("train", seed, epoch))
        while True:
            with self.kit.calling(f"train_batches('train', {seed}, {epoch})"):
                try:
                    found = next(iterator)
                except StopIteration:
                    return
            yield found

    def _steps(self) -> int:
        """Return how many batches an epoch has, by a pass over them where they do not say."""
        with self.kit.calling("train_batches('train', 0, 0)"):
            batches = self.given.train_batches("train", 0, 0)
        count = len(batches) if hasattr(batches, "__len__") else sum(1 for _ in self._iterator(0, 0))
        if not count:
            raise InputError(f"{self.path}: train_batches('train', 0, 0) gives no batch, expected at least one")
        return count


@contextmanager
def kit_errors(what: str) -> Iterator[None]:
    """Say what a kit refuses, such as a change that would not fit its targets, as an error of the recipe."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error


def _placed(target: Any, device: torch.device) -> Any:  # noqa: ANN401 - as the task has it
    """Return a target, arrays as tensors, on a device."""
    target = tree_map_only(np.ndarray, torch.from_numpy, target)
    return tree_map_only(Tensor, lambda each: each.to(device), target)
