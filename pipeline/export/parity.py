"""Do two forms of one network say the same? How much they differ, and the first layer that does.

A difference is given relative to the scale of the reference, the largest absolute value of the tensor, since rounding
errors are relative to what is summed. Layers are compared in the order of computation: an error is carried on to all
that follows, so the first layer beyond the tolerance is the one to look at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from pipeline.compress.training.inference import forward_hooks
from pipeline.core.classification import is_logits, predicted_classes, share_equal
from pipeline.core.errors import StageError
from pipeline.core.feeds import feed_slices
from pipeline.export.execution import openvino_tensors, torch_outputs
from pipeline.export.openvino import openvino_specs, read_openvino
from pipeline.onnx_graph.execution import onnx_batch, onnx_tensors
from pipeline.onnx_graph.file import read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from pipeline.core.feeds import Feeds
    from pipeline.onnx_graph.execution import Values

#: Largest difference, relative to scale, that rounding in another order explains: between float32 files, of their last
#: digits alone, and with weights stored as float16 (11 bits of mantissa, so 5e-4 in each weight).
FLOAT32_TOLERANCE = 1e-4
_FLOAT32_ROUNDING = 1e-6
FLOAT16_TOLERANCE = 1e-2
WEIGHTED = (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Parity:
    """How far two sets of outputs are apart.

    `max_rel_to_scale` is the largest absolute difference over the largest absolute value of that output.
    `argmax_agreement` is the share of images whose largest entry of the first output is the same; None when that
    output is not [N, classes].
    """

    max_abs: float
    max_rel_to_scale: float
    argmax_agreement: float | None
    images: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """A layer whose output differs, and by how much relative to the scale of its output."""

    layer: str
    relative: float


def output_differences(reference: Sequence[NDArray[np.float32]], outputs: Sequence[NDArray[np.float32]]) -> Parity:
    """Return how far `outputs` are from `reference`: one array [N, ...] for each output of the network.

    Raises:
        StageError: outputs of another number or shape, not finite, or the same for all images where the reference's
            are not: no such file is of any use, however large a difference is allowed.
    """
    found, expected = ([array.shape for array in arrays] for arrays in (outputs, reference))
    if found != expected:
        raise StageError(f"outputs have shapes {found}, expected {expected}")
    for index, (one, other) in enumerate(zip(reference, outputs, strict=True)):
        if not np.isfinite(other).all():
            raise StageError(f"output {index} holds values that are not finite")
        if _is_constant(other) and not _is_constant(one) and relative(one, other) > _FLOAT32_ROUNDING:
            raise StageError(f"output {index} is the same for all {len(other)} images")
    return Parity(
        max_abs=max(_distance(*pair) for pair in zip(reference, outputs, strict=True)),  # never NaN, which max() drops
        max_rel_to_scale=max(relative(*pair) for pair in zip(reference, outputs, strict=True)),
        argmax_agreement=_agreement(reference[0], outputs[0]),
        images=len(outputs[0]),
    )


def check_parity(
    reference: Sequence[NDArray[np.float32]],
    outputs: Sequence[NDArray[np.float32]],
    *,
    tolerance: float,
    locate: Callable[[], Difference | None],
    names: Sequence[str] = (),
) -> Parity:
    """Return the parity when it is within `tolerance` of scale.

    Raises:
        StageError: it is not. `locate` is called to find the first layer that differs, which the message names. Of
            several outputs, whose `names` are given, the first that differs is named too.
    """
    parity = output_differences(reference, outputs)
    if parity.max_rel_to_scale <= tolerance:
        return parity
    first = locate()
    where = (
        f"The first layer that differs is {first.layer} ({first.relative:.1e} of its scale)"
        if first
        else "Every layer that both have agrees, so it arises in one that only one of them has"
    )
    apart = [relative(*pair) > tolerance for pair in zip(reference, outputs, strict=True)]
    which = f"outputs {names[apart.index(True)]}" if len(names) > 1 else "outputs"
    raise StageError(
        f"{which} differ by {parity.max_rel_to_scale:.1e} of their scale on {parity.images} images, allowed is "
        f"{tolerance:.0e}. {where}"
    )


def first_difference(
    reference: Mapping[str, NDArray[np.float32]], found: Mapping[str, NDArray[np.float32]], *, tolerance: float
) -> Difference | None:
    """Return the first layer, in the order of `reference`, that both have and whose values differ."""
    for layer, values in reference.items():
        other = found.get(layer)
        if other is not None and other.shape == values.shape and (apart := relative(values, other)) > tolerance:
            return Difference(layer, apart)
    return None


def locate_in_onnx(reference: Path, file: Path, feeds: Feeds, *, tolerance: float) -> Difference | None:
    """Return the first layer in which an ONNX file differs from another one with the same tensor names."""
    layers = _layers(reference)
    batch = next(feed_slices(feeds, onnx_batch(read_onnx(reference))))
    given, found = (onnx_tensors(path, batch, layers) for path in (reference, file))
    return first_difference(_by_layer(given, layers), _by_layer(found, layers), tolerance=tolerance)


def locate_in_openvino(reference: Path, file: Path, feeds: Feeds, *, tolerance: float) -> Difference | None:
    """Return the first layer in which an IR differs from the ONNX file that it was made of."""
    layers = _layers(reference)
    batch = next(feed_slices(feeds, openvino_specs(read_openvino(file))[0][0].shape[0]))
    given, found = onnx_tensors(reference, batch, layers), openvino_tensors(file, batch, layers)
    return first_difference(_by_layer(given, layers), _by_layer(found, layers), tolerance=tolerance)


def locate_in_export(model: nn.Module, file: Path, feeds: Feeds, *, tolerance: float) -> Difference | None:
    """Return the first convolution or linear layer in which an ONNX export differs from its torch network."""
    layers = _layers(file)
    batch = next(feed_slices(feeds, onnx_batch(read_onnx(file))))
    given, found = module_outputs(model, batch), onnx_tensors(file, batch, layers)
    return first_difference(given, _by_layer(found, layers), tolerance=tolerance)


def module_outputs(model: nn.Module, batch: Feeds) -> Values:
    """Return the output of every convolution and linear module by name, in the order of the calls.

    Where batch norm reads a convolution's output it is batch norm's output: the two are one layer once exported. The
    second call of a module is named `<module>_2`, as its node is.
    """
    # The tensor itself is what batch norm receives; the copy stays when an activation works in place.
    values: dict[str, tuple[torch.Tensor, NDArray[np.float32]]] = {}
    calls: Counter[str] = Counter()

    def keep(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
        def hook(module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            last = next(reversed(values), None)
            made = output, output.numpy().copy()
            if isinstance(module, WEIGHTED):
                calls[name] += 1
                values[name if calls[name] == 1 else f"{name}_{calls[name]}"] = made
            elif last is not None and given and values[last][0] is given[0]:
                values[last] = made

        return hook

    watched = (each for each in model.named_modules() if isinstance(each[1], (*WEIGHTED, *NORMS)))
    with forward_hooks(watched, keep):
        torch_outputs(model, batch)
    return {name: copy for name, (_, copy) in values.items()}


def relative(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the largest absolute difference over the largest absolute value of the reference; infinite for NaN."""
    scale = float(np.abs(reference).max(initial=0.0))
    distance = _distance(reference, other)
    return distance / scale if scale > 0 and np.isfinite(distance) else distance


def _distance(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    distance = np.abs(reference.astype(np.float64) - other).max(initial=0.0)
    return float(distance) if np.isfinite(distance) else float("inf")


def _is_constant(output: NDArray[np.float32]) -> bool:
    return len(output) > 1 and bool((output == output[:1]).all())


def _agreement(reference: NDArray[np.float32], output: NDArray[np.float32]) -> float | None:
    return share_equal(predicted_classes(reference), predicted_classes(output)) if is_logits(reference) else None


def _layers(file: Path) -> dict[str, str]:
    """Return the layer that makes each tensor of an ONNX file, in the order of computation."""
    nodes = [node for node in read_onnx(file).graph.node if node.op_type != "Constant"]
    return {value: node.name or value for node in nodes for value in node.output if value}


def _by_layer(values: Mapping[str, NDArray[np.float32]], layers: Mapping[str, str]) -> Values:
    return {layers[tensor]: array for tensor, array in values.items()}
