"""Train the network on labels, and on a teacher's logits when asked: after pruning, or from the start.

Source: knowledge distillation by Hinton et al. 2015; cosine schedule by Loshchilov and Hutter 2017; adaptive batch norm
by Li et al. 2020. Retraining matters as much as the pruning criterion (Wang et al. 2023). It does not help when the
learning rate is so small that the network cannot leave the minimum that pruning destroyed: prefer a tenth to a half of
the rate that the network was first trained with. The weights that did best on the validation split are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.core.artifact import Artifact, Form, Frozen
from pipeline.core.paths import ExistingFile
from pipeline.core.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.compress.distillation import Distillation
    from pipeline.compress.training import Training

STATE_FILE = "training.pt"


class Augment(Frozen):
    """Random changes of the training images; none by default."""

    flip_horizontal: bool = Field(default=False, description="Mirror half of the images left to right.")
    flip_vertical: bool = Field(default=False, description="Mirror half of the images top to bottom.")
    rotate_90: bool = Field(default=False, description="Turn half of the images by a quarter.")
    shift: Annotated[int, Field(ge=0)] = Field(default=0, description="Largest translation in pixels, zero filled.")
    brightness: Annotated[float, Field(ge=0, le=2)] = Field(
        default=0.0, description="Largest offset of an image, in units of the normalised pixel values."
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Largest relative change of an image's contrast."
    )
    erase: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="Probability of random erasing (Zhong et al. 2017) for each image."
    )
    mixup: Annotated[float, Field(ge=0, le=4)] = Field(
        default=0.0, description="Alpha of mixup (Zhang et al. 2018); 0 for none."
    )


class Teacher(Frozen):
    """Another network as teacher, given as a recipe's own model is."""

    definition: ExistingFile = Field(description="Python file that exposes build(**arguments), relative to the recipe.")
    weights: ExistingFile = Field(
        description="Weights (.safetensors, or .pt/.pth of plain tensors), relative to the recipe."
    )
    arguments: dict[str, int | float | bool | str] = Field(default={}, description="Arguments of build().")
    channels: Literal[1, 3] = Field(default=3, description="Channels that the teacher takes.")
    size: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Input size of the teacher in pixels when it is not the student's; 0 for the same."
    )


class Distill(Frozen):
    """Learn from a teacher's logits: (1 - alpha) * cross-entropy + alpha * T^2 * KL."""

    source: Literal["original"] | Teacher = Field(
        default="original",
        alias="from",
        description="The teacher: `original` is the network that the recipe starts from.",
    )
    temperature: Annotated[float, Field(gt=0, le=20)] = Field(default=4.0, description="Softens both distributions.")
    alpha: Annotated[float, Field(gt=0, le=1)] = Field(default=0.9, description="Share of the teacher's term.")


class Finetune(Stage):
    """Train, keep the best weights by validation accuracy."""

    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    kind: Literal["finetune"]
    epochs: Annotated[int, Field(ge=0, le=10_000)] = Field(
        description="Passes over the training images; 0 renews batch-norm statistics only."
    )
    batch: Annotated[int, Field(ge=1)] = Field(default=64, description="Images in a step.")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="AdamW, or SGD with Nesterov momentum.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=5e-4, description="Peak rate: linear warm-up, then a cosine to zero."
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.02, description="Of weights with two dimensions or more; biases and norms are spared."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="Of SGD.")
    warmup: Annotated[float, Field(ge=0)] = Field(default=1.0, description="Epochs of linear warm-up.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Probability that is spread evenly over all classes."
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Decay of a moving average of the weights, which is then judged and kept; 0 for none."
    )
    recalibrate: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Training images that renew batch-norm statistics before each evaluation; 0 for none. "
        "It pays after pruning and with `ema`, when running averages lag behind the weights.",
    )
    augment: Augment = Field(default=Augment(), description="Random changes of the training images.")
    store: Literal["float32", "float16"] = Field(
        default="float32",
        description="Precision of the stored weights (biases and norms stay in float32); what is judged is the stored.",
    )
    distill: Distill | None = Field(default=None, description="Learn from a teacher; left out, from labels alone.")

    @property
    def consumes(self) -> frozenset[Form]:
        """Torch networks."""
        return frozenset({"torch"})

    def produces(self, given: Form) -> Form:
        """Return the same form."""
        return given

    def files(self) -> tuple[Path, ...]:
        """Return the teacher's files."""
        if self.distill is None or not isinstance(self.distill.source, Teacher):
            return ()
        return self.distill.source.definition, self.distill.source.weights

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Train on from where an earlier, killed run of this stage got to. Raises StageError when training diverges."""
        import torch

        from pipeline.network import load_network, write_network

        training = self._training(given, context)
        state_file = context.folder / STATE_FILE
        if state_file.exists():
            training.restore(torch.load(state_file, map_location=training.device, weights_only=True))
            context.progress.note(f"resumed after epoch {training.epoch} of {self.epochs}")
        while not training.done:
            training.run_epoch(self._reporter(training, context))
            part = state_file.with_suffix(".part")
            torch.save(training.state(), part)
            part.replace(state_file)
        model = training.finish()
        reference = load_network(given)
        reference.load_state_dict(model.state_dict())
        write_network(context.folder, reference, parent=given, half=self.store == "float16")
        state_file.unlink(missing_ok=True)
        return Outcome("torch", given.inputs, given.outputs, changed=self._changes(training))

    def _training(self, given: Artifact, context: Context) -> Training:
        from pipeline.compress.augmentation import Augmentation
        from pipeline.compress.training import Hyperparameters, Training
        from pipeline.network import load_network

        settings = Hyperparameters(
            epochs=self.epochs,
            batch=self.batch,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            warmup=self.warmup,
            label_smoothing=self.label_smoothing,
            ema=self.ema,
            recalibration_images=self.recalibrate,
        )
        return Training(
            load_network(given),
            context.dataset(),
            settings,
            augmentation=Augmentation(**self.augment.model_dump()),
            distillation=self._distillation(context),
            seed=context.seed,
        )

    def _distillation(self, context: Context) -> Distillation | None:
        from pipeline.compress.distillation import Distillation
        from pipeline.network import load_network, load_other

        if self.distill is None:
            return None
        source = self.distill.source
        if source == "original":
            teacher, channels, size = load_network(context.original), context.original.inputs[0].shape[1], 0
        else:
            teacher = load_other(source.definition, source.weights, source.arguments)
            channels, size = source.channels, source.size
        return Distillation(teacher, self.distill.temperature, self.distill.alpha, channels, size)

    def _reporter(self, training: Training, context: Context) -> Callable[[int, float], None]:
        def report(step: int, loss: float) -> None:
            last = f", validation {training.history[-1].accuracy:.2%}" if training.history else ""
            done = training.epoch * training.steps + step + 1
            text = f"epoch {training.epoch + 1}/{self.epochs}, loss {loss:.3f}{last}"
            context.progress.update(done, self.epochs * training.steps, text)

        return report

    def _changes(self, training: Training) -> dict[str, Any]:
        history = [
            {
                "epoch": result.epoch + 1,
                "training_loss": round(result.loss, 5),
                "validation_accuracy": result.accuracy,
                "validation_loss": round(result.validation_loss, 5),
            }
            for result in training.history
        ]
        best = max(training.history, key=lambda result: result.accuracy, default=None)
        return {"device": training.device.type, "best_epoch": best.epoch + 1 if best else 0, "history": history}
