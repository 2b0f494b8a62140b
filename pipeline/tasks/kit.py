"""What all kits share: names of classes, the output that is meant, inputs from raw samples, problems in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Generator, Tensor

    Array = NDArray[Any]
    #: What is wrong with one target: what was found, and what is allowed with what to do.
    Problem = tuple[str, str]

#: An image [C, H, W] has three axes.
IMAGE_AXES = 3


def class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """Return the names of classes; a number of them is named 0, 1, ...

    Raises:
        ValueError: there is none, or one name stands twice.
    """
    names = tuple(str(each) for each in (range(classes) if isinstance(classes, int) else classes))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"classes: found {list(names)}; give at least one name, and each once")
    return names


def among(name: str, found: str, allowed: Sequence[str]) -> str:
    """Return a setting that is one of the allowed words.

    Raises:
        ValueError: it is another.
    """
    if found not in allowed:
        raise ValueError(f"{name}: found {found!r}; allowed: {', '.join(allowed)}")
    return found


def scaled_images(raw: Mapping[str, Array], mean: Sequence[float], std: Sequence[float]) -> dict[str, Array]:
    """Return the inputs of one sample: images uint8 [C, H, W] become (pixel / 255 - mean) / std, float32.

    Without mean and std they become pixel / 255. What is no such image stays as it is.
    """
    return {name: _scaled(np.asarray(each), mean, std) for name, each in raw.items()}


def _scaled(image: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    if image.dtype != np.uint8 or image.ndim != IMAGE_AXES:
        return image
    scaled = image.astype(np.float32) / np.float32(255)
    if len(mean) == 0:
        return scaled
    if len(image) == 1 and len(mean) > 1:
        scaled = np.repeat(scaled, len(mean), axis=0)
    per_channel = (np.asarray(each, dtype=np.float32)[:, None, None] for each in (mean, std))
    return np.ascontiguousarray((scaled - next(per_channel)) / next(per_channel))


class BaseKit:
    """What all kits of this program have: classes by name, the output that is meant, scaled images, a judged metric.

    `classes` is empty where predictions number nothing, `output` the place of the output among the network's. With
    `mean` and `std` images are normalised. `metric` names the metric that is judged, else it is the kind's first.
    """

    def __init__(
        self,
        classes: int | Sequence[str] | None = None,
        *,
        output: int = 0,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        metric: str | None = None,
    ) -> None:
        self.classes = () if classes is None else class_names(classes)
        self._output, self._mean, self._std, self._judged = output, mean, std, metric

    def judged_first(self, metrics: Sequence[Any]) -> tuple[Any, ...]:
        """Return the metrics with the judged one first.

        Raises:
            ValueError: none has the name of the one that is wanted.
        """
        if self._judged is not None:
            among("metric", self._judged, [metric.name for metric in metrics])
        return tuple(sorted(metrics, key=lambda metric: self._judged not in (None, metric.name)))

    def preprocess(self, raw: Mapping[str, Array]) -> dict[str, Array]:
        """Return the inputs of one sample; images uint8 [C, H, W] are scaled."""
        return scaled_images(raw, self._mean, self._std)

    def check_targets(self, targets: Sequence[Any]) -> list[str]:
        """Return what is wrong with targets, in words."""
        return wrong_targets(targets, self._problem)

    def _problem(self, target: Any) -> Problem | None:
        """Return what is wrong with one target."""
        raise NotImplementedError

    def augment(
        self, inputs: Mapping[str, Tensor], targets: Sequence[Any], settings: Mapping[str, Any], generator: Generator
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Return changed images or series, and targets as they are (`augmenting.py`)."""
        from .augmenting import augment_any

        return augment_any(inputs, targets, settings, generator)


def output_of(outputs: Mapping[str, Array], place: int) -> Array:
    """Return the output at this place, in the order of the network's outputs."""
    return np.asarray(list(outputs.values())[place])


def shape_of(shapes: Mapping[str, Sequence[int]], place: int) -> tuple[str, tuple[int, ...]]:
    """Return name and shape of the output at this place; an empty name where there are fewer."""
    named = [*shapes.items()][place : place + 1]
    return (named[0][0], tuple(named[0][1])) if named else ("", ())


def misfit(shapes: Mapping[str, Sequence[int]], needed: str) -> list[str]:
    """Return the sentence for outputs that do not fit a kind."""
    found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "no output"
    return [f"outputs without the batch axis: found {found}; needed: {needed}"]


def tensors_of(outputs: Any) -> list[Tensor]:
    """Return the tensors that a forward returned, alone or in tuples, lists and dicts, in their order."""
    if isinstance(outputs, dict):
        return [each for value in outputs.values() for each in tensors_of(value)]
    if isinstance(outputs, (tuple, list)):
        return [each for value in outputs for each in tensors_of(value)]
    return [outputs]


def stacked(targets: Sequence[Any], kind: str) -> Tensor:
    """Return targets of one shape as a tensor [B, ...], `integer` or `float`."""
    import torch

    dtype = torch.int64 if kind == "integer" else torch.float32
    return torch.stack([torch.as_tensor(np.asarray(each)) for each in targets]).to(dtype)


def soft_distance(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher, student) of softened distributions over rows of logits [N, K]."""
    from torch.nn.functional import kl_div, log_softmax

    near, wanted = (log_softmax(each / temperature, dim=-1) for each in (student_NK, teacher_NK.detach()))
    return kl_div(near, wanted, reduction="batchmean", log_target=True) * temperature**2


def wrong_targets(targets: Sequence[Any], problem_of: Callable[[Any], Problem | None]) -> list[str]:
    """Return one sentence for each kind of problem: the first sample that has it, how many more, what to do."""
    found: dict[str, list[tuple[int, str]]] = {}
    for place, target in enumerate(targets):
        problem = problem_of(target)
        if problem is not None:
            found.setdefault(problem[1], []).append((place, problem[0]))
    return [f"target of sample {_more(each)}: found {each[0][1]}; {allowed}" for allowed, each in found.items()]


def _more(samples: Sequence[tuple[int, str]]) -> str:
    return f"{samples[0][0]}" + (f" (and of {len(samples) - 1} more)" if len(samples) > 1 else "")


def said_shape(values: Array) -> str:
    """Return dtype and shape of an array in words."""
    return f"{values.dtype} {list(values.shape)}"


def not_finite(values: Array) -> Problem | None:
    """Return the problem of values that are not finite numbers."""
    if values.dtype.kind not in "fiub":
        return f"{said_shape(values)}", "targets are arrays of numbers"
    if np.isfinite(values).all():
        return None
    count = int((~np.isfinite(values)).sum())
    return f"{count} values that are nan or infinite", "leave out such samples, or mend what reads them"


def wrong_classes(labels: Array, classes: int, ignored: int | None = None) -> Problem | None:
    """Return the problem of labels that are no integers from 0 to classes - 1, apart from an ignored one."""
    if labels.dtype.kind not in "iub":
        return f"dtype {labels.dtype}", "labels are integers, so convert them: labels.astype(numpy.int64)"
    kept = labels[labels != ignored] if ignored is not None else labels
    if kept.size and (kept.min() < 0 or kept.max() >= classes):
        wrong = kept[(kept < 0) | (kept >= classes)]
        besides = "" if ignored is None else f", and {ignored} for what is ignored"
        return (
            f"label {wrong.flat[0]}",
            f"allowed are 0 to {classes - 1}{besides}: name all classes, or number labels from 0",
        )
    return None
