"""Training on targets and a teacher: deterministic by seed, one epoch at a time, resumable between epochs.

Every epoch draws its order, its augmentation and its dropout from (seed, epoch) alone, so a run that was killed and
resumed from the state after the last epoch ends with the same bytes as one that was not, on the same number of threads.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pipeline.compress.state.outside import copied_state, encoded_state, outside_state, restore_state, split_state
from pipeline.compress.training.batchnorm import recalibrate_batchnorm
from pipeline.compress.training.hints import recorded_maps
from pipeline.compress.training.rates import RateCurve
from pipeline.compress.training.seeds import epoch_seed
from pipeline.core.errors import InputError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.compress.names import OptimizerName, RateSchedule
    from pipeline.compress.sharing.tied import TiedWeights
    from pipeline.compress.training.distillation import Distillation
    from pipeline.compress.training.learner import Learner

UNTRAINABLE = (
    "the loss depends on no parameter that is trained: all of them are frozen (requires_grad=False), or forward "
    "computes without gradients (torch.no_grad, detach). Leave some parameters trainable in build()"
)
OVERWRITTEN = (
    "the network writes in place into a value that its own gradient needs, so that it cannot be trained, such as an "
    "activation with inplace=True behind another one. Use inplace=False there"
)


@dataclass(frozen=True)
class Hyperparameters:
    """The schedule. `learning_rate` is the peak of a `RateCurve`, `warmup` its epochs of linear warm-up.

    Weight decay spares biases and norms. `ema` is the decay of the weights' moving average, 0 for none;
    `recalibration_images` is how many training images renew the batch-norm statistics before each evaluation, 0 for
    none: running averages lag behind weights that change fast, and behind averaged weights.
    """

    epochs: int
    batch: int
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    momentum: float
    warmup: float
    ema: float
    recalibration_images: int
    schedule: RateSchedule
    from_fraction: float


@dataclass(frozen=True)
class EpochResult:
    """Mean training loss of the epoch, and the validation score (higher is better) and loss after it."""

    epoch: int
    loss: float
    score: float
    validation_loss: float | None


def place(model: nn.Module, device: torch.device, memory_format: torch.memory_format) -> nn.Module:
    """Move a network to a device and lay its 4-d weights out as asked, in place; returns the same network."""
    moved: nn.Module = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    return moved


class Regulariser:
    """Acts on the weights beside the loss: the gradient of a penalty, or channels set to zero. This one does nothing.

    What a subclass remembers from epoch to epoch goes through `state` and `restore_state`, so that a resumed training
    ends with the same bytes. Penalties set `keep_last`: the weights of the last epoch are what they work for, while the
    best validation accuracy is that of an early one. Epochs before `counted_from` (from 0) are kept only until there is
    a later one, for their weights are not yet what the training is for.
    """

    keep_last: ClassVar[bool] = False
    counted_from: int = 0

    def begin_epoch(self, model: nn.Module) -> None:
        """Look at the weights before an epoch."""

    def add_gradients(self, model: nn.Module, step: int) -> None:
        """Add to the gradients in place, after the loss's own; `step` counts from 0 over all epochs."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Change weights, or what the optimizer remembers of them, in place after its step."""

    def end_epoch(self, models: Sequence[nn.Module]) -> None:
        """Change weights in place after an epoch, before it is judged: the network's, then those of its average."""

    def state(self) -> dict[str, Any]:
        """Return what `restore_state` needs, as plain values and tensors."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


class TrainingRun:
    """One training run of one network. Call `run_epoch` until `done`, then `finish`."""

    def __init__(
        self,
        model: nn.Module,
        learner: Learner,
        settings: Hyperparameters,
        *,
        distillation: Distillation | None,
        seed: int,
        regulariser: Regulariser | None = None,
    ) -> None:
        """Take the network (changed in place), what it learns, the schedule, and what acts on its weights."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = place(model, self.device, learner.layout)
        self.learner = learner
        self.settings = settings
        self.distillation = distillation
        self.seed = seed
        self.regulariser = regulariser or Regulariser()
        self.held: dict[str, Tensor] = {}  # where a parameter stays zero
        self.tied: TiedWeights | None = None  # which weights stay equal
        self.epoch = 0
        self.history: list[EpochResult] = []
        self.start: EpochResult | None = None
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0  # how many epochs had been run when `best` was taken
        self.outside = tuple(
            outside_state(self.model)
        )  # places of state beside the state_dict, which training may move
        self.average = copy.deepcopy(self.model) if settings.ema else None
        if self.average:
            self.average.eval()
        self.optimizer = self._optimizer()
        if distillation:
            place(distillation.teacher, self.device, learner.layout).eval()

    @property
    def done(self) -> bool:
        """Whether all epochs have been run."""
        return self.epoch >= self.settings.epochs

    @property
    def steps(self) -> int:
        """Steps in one epoch."""
        return self.learner.steps

    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Keep parameters at zero where their mask is false, by name; whatever else acts on the weights comes before.

        Raises InputError when a parameter is not there or has another shape.
        """
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        for name, mask in masks.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise InputError(f"there is no parameter {name} of shape {tuple(mask.shape)} to keep a mask of")
        self.held = {name: ~mask.to(self.device) for name, mask in masks.items()}
        self._zero([self.model])

    def tie(self, tied: TiedWeights) -> None:
        """Keep weights equal that share a value; they are trained as one. Raises InputError when they do not fit."""
        tied.require_fit(self.model)
        self.tied = tied

    @torch.no_grad()
    def _zero(self, models: Sequence[nn.Module]) -> None:
        for model in models if self.held else ():
            parameters = dict(model.named_parameters(remove_duplicate=False))
            for name, cut in self.held.items():
                parameters[name].masked_fill_(cut, 0)

    def _hold(self, models: Sequence[nn.Module]) -> None:
        """Take weights back to what has to last: zeros, and values that several share."""
        self._zero(models)
        if self.tied:
            self.tied.project(models)

    def state(self) -> dict[str, Any]:
        """Return everything that is needed to go on after the last finished epoch, as plain values and tensors."""
        return {
            "epoch": self.epoch,
            "threads": torch.get_num_threads(),
            "history": [vars(result) for result in self.history],
            "start": vars(self.start) if self.start else None,
            "model": self._state_of(self.model),
            "optimizer": self.optimizer.state_dict(),
            "average": self._state_of(self.average) if self.average else None,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "regulariser": self.regulariser.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch = state["epoch"]
        self.history = [EpochResult(**values) for values in state["history"]]
        self.start = EpochResult(**state["start"]) if state["start"] else None
        _load(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            _load(self.average, state["average"])
        self.best = state["best"]
        self.best_epoch = state["best_epoch"]
        self.regulariser.restore(state["regulariser"])

    def judge_start(self) -> None:
        """Evaluate the network as it was given; it is kept unless an epoch is better. It has no training loss."""
        self.start = self._evaluate(self.model, math.nan)
        if not math.isfinite(self.start.validation_loss or 0.0):
            raise StageError(
                f"the network's outputs are not finite on the validation images before any training (its loss is "
                f"{self.start.validation_loss}): look at its weights, and at what the stage before it made"
            )
        self._keep(self.model)

    def run_epoch(self, on_step: Callable[[int, float], None]) -> EpochResult:
        """Train one epoch, evaluate on the validation split, remember the best weights (or the last, as asked).

        `on_step(step, loss)` is called after every step. Raises StageError when a loss is not finite: a step's, or that
        on the validation split.
        """
        torch.manual_seed(epoch_seed(self.seed, self.epoch))
        self.model.train()
        self.regulariser.begin_epoch(self.model)
        total = 0.0
        done = 0
        for step, (inputs, target) in enumerate(self.learner.batches(self.seed, self.epoch, self.device)):
            loss = self._step(inputs, target, self.epoch * self.steps + step)
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss} in epoch {self.epoch + 1}, step {step + 1}")
            total, done = total + loss, step + 1
            on_step(step, loss)
        evaluated = self.average or self.model
        models = [self.model] if evaluated is self.model else [self.model, evaluated]
        self.regulariser.end_epoch(models)
        self._hold(models)
        self._renew_statistics(evaluated)
        result = self._evaluate(evaluated, total / max(1, done))
        if not math.isfinite(result.validation_loss or 0.0):
            where = f"after epoch {self.epoch + 1}, step {self.steps},"
            raise self._diverged(f"{where} the loss on the validation images is {result.validation_loss}")
        self.history.append(result)
        self.epoch += 1
        judged = [self.start, *self.history] if self.start else self.history
        judged = judged[self.regulariser.counted_from :] or [result]
        if self.regulariser.keep_last or result is max(judged, key=self._rank):
            self._keep(evaluated)
        return result

    def _diverged(self, found: str) -> StageError:
        advice = f"Lower learning_rate (now {self.settings.learning_rate:g}) or lengthen warmup."
        return StageError(f"training diverged: {found}. {advice}")

    def _keep(self, model: nn.Module) -> None:
        self.best = {name: tensor.clone() for name, tensor in self._state_of(model).items()}
        self.best_epoch = self.epoch

    def finish(self) -> nn.Module:
        """Load the weights to keep (without an epoch, renew the statistics); return the network on the CPU, in eval."""
        if self.best is None:
            self._renew_statistics(self.model)
        else:
            _load(self.model, self.best)
        place(self.model, torch.device("cpu"), torch.contiguous_format).eval()
        return self.model

    def _state_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Return what a network holds: its state_dict, and what training may have moved beside it."""
        now = outside_state(model)
        return {**model.state_dict(), **encoded_state({place: now[place] for place in self.outside if place in now})}

    @staticmethod
    def _rank(result: EpochResult) -> tuple[float, float]:
        return result.score, -(result.validation_loss or 0.0)

    def _optimizer(self) -> torch.optim.Optimizer:
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise InputError(UNTRAINABLE)
        weights = [parameter for parameter in self.model.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.model.parameters() if parameter.ndim <= 1]
        groups = [
            {"params": weights, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0},
        ]
        if self.settings.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.settings.learning_rate)
        return torch.optim.SGD(
            groups, lr=self.settings.learning_rate, momentum=self.settings.momentum, nesterov=self.settings.momentum > 0
        )

    def _learning_rate(self, step: int) -> float:
        given, steps = self.settings, self.settings.epochs * self.steps
        warm = round(given.warmup * self.steps)
        return RateCurve(given.schedule, given.learning_rate, steps, warm, given.from_fraction).at_step(step)

    def _step(self, inputs: tuple[Tensor, ...], target: Any, step: int) -> float:  # noqa: ANN401 - as the loss wants it
        """Take one step, the `step`-th of the whole training, and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        # Mixed precision only where the hardware has it: emulated bfloat16 is many times slower than float32.
        mixed = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            with recorded_maps(self.model, self.distillation.layers if self.distillation else ()) as maps:
                outputs = self.learner.outputs(self.model, inputs)
            loss = self.learner.loss(outputs, target)
            if self.distillation:
                loss = self._distilled(self.distillation, loss, outputs, inputs, maps)
        if not loss.requires_grad:
            raise InputError(UNTRAINABLE)
        self.optimizer.zero_grad(set_to_none=True)
        _backward(loss)
        self.regulariser.add_gradients(self.model, step)
        if self.tied:
            self.tied.share_gradients(self.model)
        self.optimizer.step()
        self.regulariser.after_step(self.model, self.optimizer, step)
        self._hold([self.model])
        if self.average:
            self._update_average(self.average, step)
        return loss.item()

    def _distilled(
        self,
        given: Distillation,
        loss: Tensor,
        outputs: Any,  # noqa: ANN401 - as the loss wants it
        inputs: tuple[Tensor, ...],
        maps: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the loss with the teacher's terms: on outputs, and on maps [N, C, H, W] where there are hints."""
        teacher, its_maps = given.answers(inputs)
        distance = self.learner.distance(outputs, teacher, given.temperature)
        loss = (1 - given.alpha) * loss + given.alpha * distance
        return loss + given.hints.loss(maps, its_maps) if given.hints else loss

    @torch.no_grad()
    def _update_average(self, average: nn.Module, step: int) -> None:
        # The first weights are forgotten quickly: the decay grows with the steps done (step counts from 0).
        decay = min(self.settings.ema, (2 + step) / (11 + step))
        for mean, value in zip(average.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)
        if self.outside:
            now = copied_state(outside_state(self.model))
            restore_state(average, {place: now[place] for place in self.outside if place in now})

    @torch.no_grad()
    def _evaluate(self, model: nn.Module, training_loss: float) -> EpochResult:
        model.eval()
        return EpochResult(self.epoch, training_loss, *self.learner.evaluate(model, self.device))

    def _renew_statistics(self, model: nn.Module) -> None:
        if count := self.settings.recalibration_images:
            recalibrate_batchnorm(model, self.learner.inputs(count, self.seed, self.device))


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network what `Training._state_of` returned of one."""
    inside, outside = split_state(state)
    model.load_state_dict(inside)
    restore_state(model, outside)


def _backward(loss: Tensor) -> None:
    """Take the gradients of a loss. Raises InputError where the network has overwritten what they need."""
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise InputError(OVERWRITTEN) from error
