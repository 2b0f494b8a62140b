"""The engine on one network: capture, trace, score, prune, certify, export, and what each of them costs."""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import onnxruntime as ort
import openvino as ov
import torch
from coverage_cost import by_layer, macs
from coverage_models import build
from coverage_worker import CHARACTERS, parameter_bytes, peak, reset_peak
from torch import nn

from pipeline import compress
from pipeline.compress.pruning import prune as engine
from pipeline.compress.pruning.allocation import uniform_kept
from pipeline.compress.pruning.certificate import Reference
from pipeline.compress.pruning.graph import layer_of, trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.importance.criteria import score_channels
from pipeline.compress.pruning.importance.request import ScoreRequest
from pipeline.compress.training.inference import forward_outputs
from pipeline.core.artifact import TensorSpec
from pipeline.export.execution import openvino_outputs, torch_outputs
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.export.openvino import XML_NAME, export_openvino
from pipeline.export.parity import FLOAT32_TOLERANCE, output_differences
from pipeline.onnx_graph.execution import onnx_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coverage_models import Entry
    from coverage_worker import Record
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.importance.names import CriterionName

RATIO = 0.5
CRITERION: CriterionName = "group_l2"
#: Reasons that a record keeps of why channels stayed, those of most operations first.
REASONS = 4
#: A reason that costs nothing: kernels that the network computes from these weights are what is pruned.
UNUSED = "not used in evaluation"


def run(entry: Entry, record: Record) -> None:
    """Prune one network, then export it and compare the files with it."""
    with record.phase("build"):
        model, example = build(entry)
    record.add(source=source(), parameter_bytes=parameter_bytes(model))
    layers = by_layer(model, example)
    loaded = reset_peak()
    pruned, graph = shrink(model, example, record)
    record.add(
        macs={"before": layers[""], "after": macs(pruned, example)},
        parameters_after=parameter_bytes(pruned),
        frozen=reasons(graph, layers),
        peak_parameters=round((peak() - loaded) / parameter_bytes(model), 2),
        verdict="exact",
    )
    if len(example) > 1 or not example[0].is_floating_point():
        record.add(export=exported_tokens(pruned, example, record))
        return
    found = exported(pruned, example, record)
    record.add(export=found)
    if "error" in found or max(found.values()) > FLOAT32_TOLERANCE:
        with record.phase("export of the original"):
            record.add(original_export=exported(model, example))


def warm(_: Sequence[Entry] = ()) -> None:
    """Prune and export a small network, so that what libraries load on first use is not counted as a network's."""
    model, example = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval(), torch.randn(2, 3, 8, 8)
    captured = capture_graph(model, (example,))
    graph = trace_channels(captured)
    scores = score_channels(CRITERION, ScoreRequest(captured, graph)).scores
    engine.prune_channels(captured, graph, model, uniform_kept(scores, RATIO, floor=0.1, align=1))
    with TemporaryDirectory() as folder:
        export_onnx(model, Path(folder), [TensorSpec(name="image", shape=tuple(example.shape))])


def source() -> str:
    """Return a digest of the engine's files: records of different ones belong to different engines."""
    files = sorted(Path(compress.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def shrink(model: nn.Module, example: tuple[Tensor, ...], record: Record) -> tuple[nn.Module, ChannelGraph]:
    """Remove half of the channels of each group by the group norm, and certify the result."""
    with record.phase("capture"):
        captured = capture_graph(model, example)
    with record.phase("trace"):
        graph = trace_channels(captured)
    record.add(
        dynamic=captured.dynamic,
        groups=len(graph.groups),
        channels=sum(group.width for group in graph.groups),
        unknown=sorted({each.reason.split()[0] for each in graph.frozen if " has no rule" in each.reason}),
    )
    with record.phase("plan"):
        scores = score_channels(CRITERION, ScoreRequest(captured, graph)).scores
        kept = uniform_kept(scores, RATIO, floor=0.1, align=1)
    timed, seconds = timed_reference()
    with record.phase("prune"), mock.patch.object(engine, "Reference", timed):
        pruned = engine.prune_channels(captured, graph, model, kept)
    record.values["seconds"]["certificate"] = round(sum(seconds), 3)
    record.add(
        certificate=pruned.certificate.relative_error,
        statistics=dict(Counter(entry.partition(" in ")[0] for entry in pruned.certificate.statistics)),
        route="rewritten" if pruned.rewritten else "in place",
        rewritten=pruned.rewritten[:CHARACTERS],
    )
    return pruned.model, graph


def timed_reference() -> tuple[type[Reference], list[float]]:
    """Return the certificate's class, timed, and the list that its seconds are put into."""
    seconds: list[float] = []

    class Timed(Reference):
        def __init__(self, *given: Any) -> None:  # noqa: ANN401 (passed on)
            start = time.process_time()
            super().__init__(*given)
            seconds.append(time.process_time() - start)

        def certify(self, pruned: nn.Module) -> Any:  # noqa: ANN401 (passed on)
            start = time.process_time()
            try:
                return super().certify(pruned)
            finally:
                seconds.append(time.process_time() - start)

    return Timed, seconds


def reasons(graph: ChannelGraph, layers: dict[str, int]) -> dict[str, float]:
    """Return why channels stayed, with the share of the network's operations in the layers that make them.

    A layer counts whole even where only some of its channels had to stay.
    """
    parents = {name.rpartition(".")[0] for name in layers}
    frozen = {
        layer_of(each.tensor): each.reason
        for each in reversed(graph.frozen)
        if not each.consumes and len(graph.shapes[each.tensor]) > 1 and each.reason != UNUSED
    }
    share: Counter[str] = Counter()
    for layer in frozen.keys() & layers.keys() - parents:
        share[re.sub(r" in \S+", "", frozen[layer])] += layers[layer]
    whole = max(1, layers[""])
    return {reason: round(count / whole, 4) for reason, count in share.most_common(REASONS)}


def exported_tokens(model: nn.Module, example: tuple[Tensor, ...], record: Record) -> dict[str, Any]:
    """Return the same for a network of several inputs or of integers, which the program's own export does not take."""
    found: dict[str, Any] = {}
    reference = [tensor.numpy() for tensor in forward_outputs(model, example) if tensor.is_floating_point()]
    with TemporaryDirectory() as path:
        file = Path(path) / FILE_NAME
        try:
            with record.phase("onnx"):
                torch.onnx.export(model, example, str(file), dynamo=True, external_data=False, verbose=False)
            session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
            feeds = {given.name: tensor.numpy() for given, tensor in zip(session.get_inputs(), example, strict=True)}
            results = [each for each in session.run(None, feeds) if each.dtype == np.float32]
            found["onnxruntime"] = output_differences(reference, results).max_rel_to_scale
            with record.phase("openvino"):
                compiled = ov.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
                results = [each for each in compiled(feeds).values() if each.dtype == np.float32]
            found["openvino"] = output_differences(reference, results).max_rel_to_scale
        except Exception as error:  # noqa: BLE001 (a vendor's: it is the finding)
            found["error"] = str(error)[:CHARACTERS]
    return found


def exported(model: nn.Module, example: tuple[Tensor, ...], record: Record | None = None) -> dict[str, Any]:
    """Return how far onnxruntime's and OpenVINO's outputs are from torch's, relative to their scale.

    Both run as they are used, optimised. `onnxruntime_plain` is without optimisations, where those are at fault.
    What fails ends it: `error` and the `step` that it arose in.
    """
    found: dict[str, Any] = {}
    images = {"image": example[0].numpy()}
    reference = torch_outputs(model, images)
    names = [f"output{index}" for index in range(len(reference))]
    with TemporaryDirectory() as path:
        folder = Path(path)
        file = folder / FILE_NAME

        def onnxruntime() -> None:
            found["onnxruntime"] = output_differences(
                reference, onnx_outputs(file, images, optimised=True)
            ).max_rel_to_scale
            if found["onnxruntime"] > FLOAT32_TOLERANCE:
                found["onnxruntime_plain"] = output_differences(reference, onnx_outputs(file, images)).max_rel_to_scale

        def openvino() -> None:
            export_openvino(file, folder)
            found["openvino"] = output_differences(
                reference, openvino_outputs(folder / XML_NAME, images)
            ).max_rel_to_scale

        def onnx() -> None:
            export_onnx(model, folder, [TensorSpec(name="image", shape=images["image"].shape)], names)

        for step in (onnx, onnxruntime, openvino):
            start = time.process_time()
            try:
                step()
            except Exception as error:  # noqa: BLE001 (a failure is a result of this benchmark)
                return {**found, "step": step.__name__, "error": f"{type(error).__name__}: {error}"[:CHARACTERS]}
            if record:
                record.values["seconds"][step.__name__] = round(time.process_time() - start, 3)
    return found
