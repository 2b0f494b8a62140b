"""The samples that criteria look at and that candidates are judged on, as the network takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from pipeline.compress.training.batchnorm import recalibrate_batchnorm
from pipeline.compress.training.inference import forward_outputs
from pipeline.compress.training.task_learner import FileLearner, KitLearner
from pipeline.core.errors import InputError
from pipeline.core.task import score_of, statistics_of
from pipeline.core.user_code import user_code_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from pipeline.core.dataset import SplitName
    from pipeline.core.task import Task


@dataclass(frozen=True)
class Samples:
    """A fixed choice of samples: `images` of each of two splits, drawn with `seed`, in batches of `batch`.

    `task` is called when samples are needed, so that what needs none loads none. With `drop_last` every batch has the
    same size, as a network wants whose code fixes its batch; the rest of the samples are left out. `output_names` are
    those of the network's outputs, in order.
    """

    task: Callable[[], Task]
    images: int
    batch: int
    seed: int
    drop_last: bool = False
    output_names: Sequence[str] = ("logits",)

    @property
    def is_share(self) -> bool:
        """Whether scores are shares between 0 and 1, so that what may be lost is in points."""
        return self.task().judged.is_share

    def training(self) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
        """Yield inputs, each [B, ...], and the targets of training samples.

        Raises InputError when there are fewer than asked for.
        """
        available = self.task().count("train")
        if self.images > available:
            raise InputError(f"images is {self.images}, the training split has {available}: ask for at most that many")
        yield from self._batches("train")

    def validation(self) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
        """Yield as many validation samples, or all there are."""
        yield from self._batches("validation")

    def for_loss(self) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
        """Yield training samples with what the task's loss wants: from a user's file the batches that it trains on."""
        task = self.task()
        if task.kind != "file":
            yield from self.training()
            return
        count = 0
        for batch in FileLearner(task, self.batch, self.output_names).batches(self.seed, 0, torch.device("cpu")):
            size = len(batch[0][0])
            if self.drop_last and size != self.batch:
                raise InputError(f"train_batches gives {size} samples, and the network's code takes {self.batch} alone")
            yield batch
            count += size
            if count >= self.images:
                return

    def loss(self, outputs: Any, targets: Any) -> Tensor:  # noqa: ANN401 - as the task has them
        """Return the task's loss, the mean over the samples; of a classifier of images cross-entropy."""
        task = self.task()
        if task.images is not None:
            return cross_entropy(tree_leaves(outputs)[0], targets)
        if task.kind == "file":
            return FileLearner(task, self.batch, self.output_names).loss(outputs, targets)
        learner = KitLearner(task, self.batch, self.output_names, {})
        return learner.loss(outputs, learner.kit.collate(targets))

    def score(self, model: nn.Module, *, renew: bool) -> float:
        """Return a network's score on the validation samples, higher is better; it is left in eval mode.

        With `renew`, the batch-norm statistics are taken again from the training samples before: what makes pruned
        networks comparable without training them (EagleEye, Li et al. 2020).
        """
        model.eval()
        if renew:
            recalibrate_batchnorm(model, (inputs for inputs, _ in self.training()))
        task = self.task()
        metric, statistics = task.metrics[0], list[Any]()
        for inputs, targets in self.validation():
            found = [each.float().numpy() for each in forward_outputs(model, inputs)]
            with user_code_errors(f"the metric {metric.name} cannot be computed"):
                made = task.predictions(dict(zip(self.output_names, found, strict=False)))
                statistics += statistics_of(metric, made, [*targets])
        if not statistics:
            raise InputError(f"the validation split has less than one batch of {self.batch} images")
        score = score_of(metric, statistics)
        return score if metric.higher_is_better else -score

    def _chosen(self, split: SplitName) -> NDArray[np.int64]:
        total = self.task().count(split)
        chosen: NDArray[np.int64] = np.random.default_rng(self.seed).permutation(total)[: self.images]
        return chosen

    def _batches(self, split: SplitName) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
        task, chosen = self.task(), self._chosen(split)
        stop = len(chosen) // self.batch * self.batch if self.drop_last else len(chosen)
        for start in range(0, stop, self.batch):
            places = chosen[start : min(start + self.batch, stop)]
            inputs = tuple(torch.from_numpy(values) for values in task.feeds(split, places).values())
            targets = task.targets(split, places)
            yield inputs, torch.tensor(targets) if task.images is not None else [*targets]
