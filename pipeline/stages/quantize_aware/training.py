"""Training of an artifact's network with quantization simulated, to an int8 file; resumable between epochs."""

from __future__ import annotations

import glob
import math
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.compress.quantization.aware.graph import QuantizationAware
from pipeline.compress.quantization.canonical import canonical_form
from pipeline.compress.quantization.engines.onnxruntime import quantize_with_ranges
from pipeline.compress.quantization.holding import hold_in_float
from pipeline.compress.quantization.placement import matching_nodes, nodes_like, suspect_nodes
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.compress.quantization.separation import separate_tensors, with_biases
from pipeline.compress.training.inference import forward_hooks
from pipeline.compress.training.training import Regulariser
from pipeline.core.artifact import at_batch
from pipeline.core.errors import StageError
from pipeline.core.feeds import sample_count, take_samples
from pipeline.core.nearness import NEARNESS
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.export.parity import NORMS, output_differences
from pipeline.network.clusters import sharing_rules
from pipeline.network.stored import load_network
from pipeline.network.training import STATE_FILE, epoch_history, make_training, own_score, run_to_end, score_name
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import finish_model, onnx_specs, read_onnx, write_onnx
from pipeline.precision.nearness import MadeFile, ensure_near, nearness_before_and_after, net_of
from pipeline.precision.request import calibration_images, request_of
from pipeline.stages.quantize_aware.clusters import tied_constants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizedGraph
    from pipeline.compress.quantization.names import Scheme
    from pipeline.core.artifact import Artifact, TensorSpec
    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Context
    from pipeline.network.training_config import TrainingConfig
    from pipeline.precision.config import QuantizationConfig

FLOAT_FOLDER, QDQ = "float", "calibrated.onnx"
KIND = "quantize-aware-finetune"
#: The file may differ from what was trained by rounding at the edge between two integers, which is this much at most.
LEAST_DECIBELS = 20.0
PARITY_IMAGES = 32


@dataclass(frozen=True)
class QdqFile:
    """Writes the int8 file of a float graph; `quantize` takes patterns of the nodes that stay in float."""

    quantize: Callable[[tuple[str, ...]], QuantizedGraph]
    model: ModelProto
    keep: tuple[str, ...]
    file: Path

    def __call__(self, in_float: tuple[str, ...]) -> MadeFile:
        """Write it with these nodes in float."""
        keep = self.keeping(in_float)
        quantized = self.quantize(keep)
        kept = nodes_like(self.model, keep) | quantized.reasons.keys()
        write_onnx(finish_model(hold_in_float(quantized.model, kept)), self.file)
        told = {
            "quantized_nodes": quantized.nodes,
            "float_nodes": list(quantized.float_nodes),
            "left_in_float": dict(quantized.reasons),
        }
        return MadeFile(self.file, suspect_nodes(self.model, self.keep), told, empty=not quantized.nodes)

    def keeping(self, in_float: Sequence[str]) -> tuple[str, ...]:
        """Return the patterns of what stays in float with these nodes."""
        return (*self.keep, *map(glob.escape, in_float))


class FreezeLate(Regulariser):
    """Lets ranges and batch statistics move during the first epochs only."""

    def __init__(self, observers: int, norms: int) -> None:
        """Take after how many epochs each stays as it is."""
        self.observers, self.norms, self.epoch = observers, norms, 0

    def begin_epoch(self, model: nn.Module) -> None:
        """Set what may move in this epoch."""
        assert isinstance(model, QuantizationAware)  # noqa: S101 - for the type checker
        model.observing, model.normalising = self.epoch < self.observers, self.epoch < self.norms
        self.epoch += 1

    def state(self) -> dict[str, Any]:
        """Return the number of epochs begun."""
        return {"epoch": self.epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.epoch = state["epoch"]


def train_quantized(
    config: TrainingConfig,
    quantization: QuantizationConfig,
    given: Artifact,
    context: Context,
    *,
    scheme: Scheme,
    freeze: tuple[float, float],
    keep_zeros: bool,
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, Any]]:
    """Train, write `model.onnx` into the context's folder, and return its inputs, outputs and what was done.

    `freeze` are the shares of the epochs after which ranges of activations and batch statistics stay as they are.

    Raises:
        InputError: the network cannot be exported, or has an operator that is not known here.
        StageError: training diverges, the file differs from what was trained, or it is far from the float graph of the
            same weights, before or after training, and `on_far` does not help.
    """
    network = load_network(given)
    work = context.folder / FLOAT_FOLDER
    export_onnx(network, work, at_batch(given.inputs, context.target.batch), [output.name for output in given.outputs])
    exported = read_onnx(work / FILE_NAME)
    matching_nodes(exported, quantization.keep)
    model = canonical_form(exported)
    calibrated = calibration_images(quantization, context, model)
    request = request_of(quantization, scheme)
    ranges = activation_ranges(
        model,
        calibrated.feeds,
        calibration=quantization.calibration,
        percentile=quantization.percentile,
        keep=quantization.keep,
    )
    few = tuple(torch.from_numpy(values[:2]) for values in calibrated.feeds.values())
    norms = folded_norms(network, few)
    own = with_biases(separate_tensors(model, tied_parameters(network, few)), norms)
    net = net_of(work / FILE_NAME, context, sample_count(calibrated.feeds))
    begun = QdqFile(
        lambda keep: quantize_with_ranges(own, ranges, replace(request, keep=keep)), own, request.keep, work / QDQ
    )
    _, start = ensure_near(net, begun, quantization.on_far, stage=KIND, progress=context.progress)
    request = replace(request, keep=begun.keeping(start.in_float))
    aware = QuantizationAware(own, ranges, request, norms, keep_zeros=keep_zeros)
    with torch.no_grad():
        aware.return_like(network(*(each.clone() for each in few)))
    freeze_constants(aware, network)
    late = FreezeLate(*(math.ceil(share * config.epochs) for share in freeze))
    training = make_training(config, aware, context, given=given, seed=context.seed, regulariser=late)
    if (tied := tied_constants(aware, sharing_rules(given))).books:
        training.tie(tied)
    trained = run_to_end(training, context.folder, context.progress, judge_start=True)
    assert isinstance(trained, QuantizationAware)  # noqa: S101 - for the type checker
    file = context.folder / FILE_NAME
    make = QdqFile(trained.shipped, own, request.keep, file)
    make(())
    parity = _require_parity(trained, file, take_samples(calibrated.feeds, slice(PARITY_IMAGES)))
    write_onnx(finish_model(trained.in_float()), work / FILE_NAME)
    net = replace(net, given=work / FILE_NAME)
    made, end = ensure_near(net, make, quantization.on_far, stage=KIND, progress=context.progress)
    shutil.rmtree(work)
    (context.folder / STATE_FILE).unlink(missing_ok=True)
    changed = {
        "scheme": scheme,
        "device": training.device.type,
        "best_epoch": training.best_epoch,
        **({f"calibrated_{score_name(training)}": own_score(training, training.start)} if training.start else {}),
        "history": epoch_history(training),
        **made.told,
        "calibration_images": sample_count(calibrated.feeds),
        "simulation": parity,
        NEARNESS: nearness_before_and_after(start, end).model_dump(mode="json", exclude_none=True),
    }
    return *onnx_specs(read_onnx(file)), changed


def freeze_constants(aware: QuantizationAware, network: nn.Module) -> None:
    """Leave untrained what the network does not train either: buffers, and numbers that stand in its code."""
    learned = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    learned |= {f"{name.removesuffix('.weight')}.bias" for name in learned}  # a norm that is folded makes one
    for name in aware.weights():
        aware.constant(name).requires_grad_(name in learned)


def tied_parameters(network: nn.Module, batch: tuple[Tensor, ...]) -> frozenset[str]:
    """Return the names of parameters that several layers share, or one that is called twice, from one pass."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    calls: Counter[str] = Counter()
    owners = (each for each in network.named_modules() if any(True for _ in each[1].parameters(recurse=False)))
    with forward_hooks(owners, lambda name: lambda *_: calls.update([name])), torch.no_grad():
        network.eval()(*batch)
    several = {name for shared in names.values() if len(shared) > 1 for name in shared}
    again = {name for name, _ in network.named_parameters() if calls[name.rpartition(".")[0]] > 1}
    return frozenset(several | again)


def folded_norms(network: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Return the convolution and the batch norm after it, by the name of the convolution, from one pass.

    A convolution that is called twice, or whose output something else reads as well, is left out: it is not folded.
    """
    made: dict[int, tuple[str, nn.Module, Tensor]] = {}
    calls: dict[str, int] = {}
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, NORMS):
                maker = made.get(id(inputs[0]))
                if maker is not None and module.track_running_stats and module.affine:
                    pairs[maker[0]] = maker[1], module
            else:
                calls[name] = calls.get(name, 0) + 1
                made[id(output)] = name, module, output

        return keep

    watched = (each for each in network.named_modules() if isinstance(each[1], (nn.Conv1d, nn.Conv2d, *NORMS)))
    with forward_hooks(watched, hook), torch.no_grad():
        network.eval()(*batch)
    return {name: pair for name, pair in pairs.items() if calls[name] == 1}


def _require_parity(trained: QuantizationAware, file: Path, samples: Feeds) -> Mapping[str, Any]:
    """Return how near the file is to what was trained. Raises StageError when it is something else."""
    with torch.no_grad():
        simulated = tree_leaves(trained(*trained.given(samples)))
    reference = tuple(each.numpy() for each in simulated if isinstance(each, Tensor))
    found = onnx_outputs(file, samples)
    parity = output_differences(reference, found)
    decibels = min(_decibels(one.astype(np.float64), other) for one, other in zip(reference, found, strict=True))
    if not decibels >= LEAST_DECIBELS:
        raise StageError(
            f"the file's outputs are {decibels:.0f} dB from those of the trained simulation, expected at least "
            f"{LEAST_DECIBELS:.0f}: they are not the same network"
        )
    return {**parity.to_json(), "decibels": decibels if math.isfinite(decibels) else None}


def _decibels(exact: NDArray[np.float64], found: NDArray[Any]) -> float:
    power, noise = float(np.square(exact).sum()), float(np.square(exact - found).sum())
    return math.inf if noise == 0 else 10 * math.log10(power / noise) if power > 0 else -math.inf
