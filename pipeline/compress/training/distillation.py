"""A teacher, and a classifier's losses against targets and against a teacher's logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn, no_grad
from torch.nn.functional import interpolate, kl_div, log_softmax

from pipeline.compress.training.hints import recorded_maps

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.training.hints import Hints


@dataclass(frozen=True)
class Distillation:
    """A teacher in eval mode, the temperature, and the share `alpha` of the teacher's term in the loss.

    A teacher for three channels gets a grey image three times; `size` is the teacher's own input size in pixels, or 0
    for the student's: images of another size are resized for it. `hints` are what is compared inside the networks.
    """

    teacher: nn.Module
    temperature: float
    alpha: float
    channels: int
    size: int
    hints: Hints | None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of student and teacher whose maps are compared."""
        return self.hints.layers if self.hints else ()

    def answers(self, inputs: tuple[Tensor, ...]) -> tuple[Any, dict[str, Tensor]]:
        """Return the teacher's outputs for the student's inputs, and the maps of the layers that are compared."""
        with recorded_maps(self.teacher, self.layers) as maps:
            outputs = self.outputs(inputs)
        return outputs, maps

    def outputs(self, inputs: tuple[Tensor, ...]) -> Any:  # noqa: ANN401 - what its forward returns
        """Return the teacher's outputs for the student's inputs, such as (augmented) images [N, C, H, W]."""
        with no_grad():
            if len(inputs) > 1 or inputs[0].ndim != 4:  # noqa: PLR2004 - no images, of which alone there may be fewer channels
                return self.teacher(*inputs)
            images = inputs[0]
            if images.shape[1] != self.channels:
                images = images[:, :1].expand(-1, self.channels, -1, -1)
            if self.size and images.shape[-1] != self.size:
                images = interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
            return self.teacher(images)


def target_loss(logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
    """Cross-entropy against target distributions, mean over images."""
    return -(targets_NK * log_softmax(logits_NK.float(), dim=1)).sum(dim=1).mean()


def teacher_loss(logits_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over images. Source: Hinton et al. 2015."""
    student = log_softmax(logits_NK.float() / temperature, dim=1)
    teacher = log_softmax(teacher_NK.float() / temperature, dim=1)
    return temperature**2 * kl_div(student, teacher, reduction="batchmean", log_target=True)
