"""What a network learns from inside a teacher: its feature maps, and where its layers look."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn, zeros
from torch.nn.functional import interpolate, normalize

from pipeline.compress.training.inference import forward_hooks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Maps = Mapping[str, Tensor]

#: Dimensions of maps [N, C, H, W].
_IMAGES = 4


@dataclass(frozen=True)
class Hints:
    """Layers whose maps are compared, and what each term weighs in the loss.

    Attributes:
        features: for each layer the channels [C of the student] of the teacher's map that the student has kept.
        attention: layers whose attention maps are compared.
        feature_weight: factor of the mean of the layers' feature losses.
        attention_weight: factor of the mean of their attention losses.
    """

    features: Mapping[str, Tensor]
    attention: tuple[str, ...]
    feature_weight: float
    attention_weight: float

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers whose maps are needed."""
        return tuple(dict.fromkeys((*self.features, *self.attention)))

    def loss(self, student: Maps, teacher: Maps) -> Tensor:
        """Return the weighted sum of both terms, a scalar."""
        total = next(iter(student.values())).new_zeros(()).float() if student else zeros(())
        if self.features:
            each = [feature_loss(student[name], teacher[name], kept) for name, kept in self.features.items()]
            total = total + self.feature_weight * sum(each) / len(each)
        if self.attention:
            each = [attention_loss(student[name], teacher[name]) for name in self.attention]
            total = total + self.attention_weight * sum(each) / len(each)
        return total


def feature_loss(student_NCHW: Tensor, teacher_NKHW: Tensor, kept_C: Tensor) -> Tensor:
    """Return mean((s - t)^2) / mean(t^2) over a batch, `t` the teacher's channels that the student has kept.

    Source: hints of FitNets (Romero et al. 2015) without their regressor: a pruned network's channels are some of its
    teacher's. The denominator makes layers of large and small values count alike: 1 is the loss of a map of zeros.
    Raises ValueError where the maps differ in positions.
    """
    expected = (len(student_NCHW), len(kept_C), *student_NCHW.shape[2:])
    target = teacher_NKHW.float().index_select(1, kept_C.to(teacher_NKHW.device))
    if student_NCHW.shape != target.shape:
        raise ValueError(f"maps {tuple(student_NCHW.shape)} and {tuple(target.shape)}, expected {expected}")
    size = target.square().mean().clamp_min(1e-12)
    return (student_NCHW.float() - target).square().mean() / size


def attention_map(maps_NCHW: Tensor) -> Tensor:
    """Return sum over channels of squared values [N, H, W]. Source: Zagoruyko and Komodakis 2017, F_sum with p = 2."""
    return maps_NCHW.float().square().sum(dim=1)


def attention_loss(student_NCHW: Tensor, teacher_NKHW: Tensor) -> Tensor:
    """Return the squared distance between both attention maps as vectors of length 1, mean over images: from 0 to 2.

    Any numbers of channels. A teacher's map of other positions is resampled to the student's (bilinear, antialiased).
    Source: Zagoruyko and Komodakis 2017, whose code takes the mean over positions of the same.
    """
    student, teacher = attention_map(student_NCHW), attention_map(teacher_NKHW)
    if student.shape[1:] != teacher.shape[1:]:
        resized = interpolate(teacher[:, None], size=student.shape[1:], mode="bilinear", antialias=True)
        teacher = resized[:, 0]
    apart = normalize(student.flatten(1)) - normalize(teacher.flatten(1))
    return apart.square().sum(dim=1).mean()


@contextmanager
def recorded_maps(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, the first output of each of these layers is kept, copied: later layers may write into it."""
    found: dict[str, Tensor] = {}

    def hook_of(name: str) -> Any:  # noqa: ANN401 - as torch declares hooks
        def hook(_: nn.Module, __: object, output: object) -> None:
            if name not in found and isinstance(output, Tensor):
                found[name] = output.clone()

        return hook

    with forward_hooks([(name, model.get_submodule(name)) for name in layers], hook_of):
        yield found


def usable_maps(model: nn.Module, run: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401 - a callable without arguments
    """Return the layers that `run()` calls once, with the shape of their maps [N, C, H, W], in the order they end.

    A layer that is called again, or returns anything but one such tensor of more than one position, is left out.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    calls: dict[str, int] = {}

    def hook_of(name: str) -> Any:  # noqa: ANN401 - as torch declares hooks
        def hook(_: nn.Module, __: object, output: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor) and output.ndim == _IMAGES and output.shape[2:].numel() > 1:
                shapes[name] = tuple(output.shape)

        return hook

    with forward_hooks([(name, layer) for name, layer in model.named_modules() if name], hook_of):
        run()
    return {name: shape for name, shape in shapes.items() if calls[name] == 1}


def last_at_each_size(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the last layer at each size of maps, in order: of a residual network the end of each stage.

    `shapes` are maps [N, C, H, W] in the order in which layers end, so that the outermost of several that end together
    is taken.
    """
    last = {shape[2:]: name for name, shape in shapes.items()}
    return tuple(name for name in shapes if last[shapes[name][2:]] == name)
