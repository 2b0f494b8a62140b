"""Inspects an exported file: what it asks for, what the runtime makes of it, and what quantization costs each layer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.analysis.cost import onnx_macs
from pipeline.analysis.feeds import fixed_inputs, random_feeds, sample_feeds
from pipeline.analysis.findings import float_islands, inspection_findings
from pipeline.analysis.noise import watch_onnx
from pipeline.analysis.precision_map import onnx_precision_map
from pipeline.analysis.times import node_times
from pipeline.core.errors import InputError
from pipeline.core.runtimes import DEFAULT_RUNTIME, FORMS, form_of, load_reference, runtime_for
from pipeline.data import load_task
from pipeline.onnx_graph.file import onnx_specs, read_onnx
from pipeline.onnx_graph.wiring import CONVERTERS, FileWiring
from pipeline.recipe import load_recipe
from pipeline.results.file_inspection import INTEGERS, FileInspection, OperatorTime, RuntimeProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.analysis.feeds import Feed
    from pipeline.analysis.precision_map import PrecisionMap
    from pipeline.analysis.probes import LayerStatistics
    from pipeline.analysis.times import NodeTimes
    from pipeline.core.artifact import TensorSpec
    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Runtime
    from pipeline.results.file_inspection import FileLayer


@dataclass(frozen=True)
class Images:
    """Samples as a network takes them, and what they are in words."""

    feeds: Feeds
    words: str


@dataclass(frozen=True)
class InspectOptions:
    """How a file is looked at.

    Attributes:
        against: the float ONNX file that it was made of; without it no noise is told.
        images: what it is run on; without them `count` random inputs are drawn with `seed`.
        shapes: [batch, ...] of each input, where the file leaves sizes open.
        runtime: which runtime profiles it; None: onnxruntime for ONNX files, openvino for an IR.
        runs: profiled inferences; none for 0.
        threads: threads of the profiled inferences.
    """

    against: Path | None = None
    images: Images | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    count: int = 32
    seed: int = 0
    runtime: Runtime | None = None
    runs: int = 50
    threads: int = 1


def training_images(recipe: Path, overrides: Sequence[str], count: int, seed: int, file: Path | None = None) -> Images:
    """Return samples of the training split of a recipe's data, as its network takes them, or a file of another size.

    The same seed draws the same ones. Validation and test samples are never looked at.

    Raises:
        InputError: the recipe has problems, its data is missing, or the split has fewer images.
    """
    loaded = load_recipe(recipe, overrides).recipe
    task = load_task(loaded.task, loaded.data)
    form = form_of(file) if file else None
    if file and form:
        task = task.for_inputs(load_reference(FORMS[form].ports)(file)[0])
    available, name = task.count("train"), task.data.name
    if count > available:
        raise InputError(f"--samples is {count}, the training split of {name} has {available}: ask for fewer")
    chosen = np.sort(np.random.default_rng(seed).choice(available, count, replace=False))
    return Images(task.feeds("train", chosen), f"{count} training {'images' if task.images else 'samples'} of {name}")


def inspect_file(file: Path, ways: InspectOptions) -> FileInspection:
    """Describe a file's layers, run it unoptimised to see them, and profile it.

    Args:
        file: an ONNX file, float or quantized, or an OpenVINO IR (.xml next to .bin).
        ways: how it is looked at.

    Raises:
        InputError: a file cannot be read, inputs do not fit it, or the runtime does not read it.

    Cost: an unoptimised inference for each call of `images`, of the float file as well where there is one, then `runs`
    inferences.
    """
    label = str(file)
    read = _read_ir if file.suffix == ".xml" else _read_onnx
    inputs, feeds, mapped, seen = read(file, ways, label)
    form = form_of(file) or "onnx"
    runtime = ways.runtime or runtime_for(form, DEFAULT_RUNTIME)
    times = node_times(file, runtime, feeds[0], runs=ways.runs, threads=ways.threads) if ways.runs else None
    layers = tuple(_timed(_seen(layer, seen.get(layer.name)), times) for layer in mapped.layers)
    found_islands = float_islands(layers, mapped.links)
    counted = [layer for layer in layers if layer.macs]
    return FileInspection(
        form=form,
        file=label,
        size_bytes=sum(each.stat().st_size for each in (file, file.with_suffix(".bin")) if each.is_file()),
        inputs=inputs,
        samples=ways.images.words if ways.images else _random_words(feeds, ways.seed),
        against=None if ways.against is None else str(ways.against),
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs or 0 for layer in counted),
        integer_macs=sum(layer.macs or 0 for layer in counted if layer.computed_in in INTEGERS),
        layers=layers,
        profile=None if times is None else _profile(times, layers),
        islands=found_islands,
        findings=inspection_findings(layers, found_islands),
    )


def _random_words(feeds: Sequence[Feed], seed: int) -> str:
    count = sum(len(next(iter(feed.values()))) for feed in feeds)
    return f"{count} random inputs (normal, seed {seed}), not images: noise and dead channels mean little"


def _read_onnx(
    file: Path, ways: InspectOptions, label: str
) -> tuple[tuple[TensorSpec, ...], Sequence[Feed], PrecisionMap, Mapping[str, LayerStatistics]]:
    wiring = FileWiring(read_onnx(file))
    inputs = _fixed(onnx_specs(wiring.model)[0], ways, label)
    feeds = _feeds(inputs, ways, label)
    mapped = onnx_precision_map(wiring)
    seen = watch_onnx(wiring, feeds, ways.against, label=label)
    return inputs, feeds, _with_macs(mapped, wiring, feeds[0], seen), seen


def _read_ir(
    file: Path, ways: InspectOptions, label: str
) -> tuple[tuple[TensorSpec, ...], Sequence[Feed], PrecisionMap, Mapping[str, LayerStatistics]]:
    from pipeline.analysis.openvino_layers import read_layers  # noqa: PLC0415
    from pipeline.analysis.openvino_noise import watch_ir  # noqa: PLC0415 - ONNX files do without
    from pipeline.analysis.openvino_precision import openvino_precision_map  # noqa: PLC0415
    from pipeline.export.openvino import openvino_specs, read_openvino  # noqa: PLC0415

    inputs = _fixed(openvino_specs(read_openvino(file))[0], ways, label)
    ir = read_layers(file, inputs)
    feeds = _feeds(inputs, ways, label)
    return inputs, feeds, openvino_precision_map(ir), watch_ir(ir, feeds, ways.against, label=label)


def _fixed(inputs: Sequence[TensorSpec], ways: InspectOptions, label: str) -> tuple[TensorSpec, ...]:
    """Return the inputs with sizes that the file leaves open: those that were given, else those of the samples."""
    samples = ways.images.feeds if ways.images else {}
    opened = any(size < 0 for spec in inputs for size in spec.shape[1:])
    known = opened and all(spec.name in samples for spec in inputs)
    shapes = tuple(samples[spec.name].shape for spec in inputs) if known else ()
    return fixed_inputs(inputs, ways.shapes or shapes, label)


def _feeds(inputs: Sequence[TensorSpec], ways: InspectOptions, label: str) -> list[Feed]:
    if ways.images is None:
        return random_feeds(inputs, ways.count, ways.seed)
    return sample_feeds(inputs, ways.images.feeds, label)


def _with_macs(
    mapped: PrecisionMap, wiring: FileWiring, feed: Feed, seen: Mapping[str, LayerStatistics]
) -> PrecisionMap:
    """Add multiply-accumulates and sizes of outputs, which follow from the shapes that were seen."""
    shapes = {name: tuple(tensor.dims) for name, tensor in wiring.constants.items()}
    shapes |= {name: value.shape for name, value in feed.items()}
    shapes |= {node.output[0]: seen[node.name].shape for node in wiring.layers if seen[node.name].shape}
    for node in wiring.model.graph.node:
        if node.op_type in CONVERTERS and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    macs = onnx_macs(wiring.model, shapes)
    batch = max(len(next(iter(feed.values()))), 1)
    sized = []
    for layer, node in zip(mapped.layers, wiring.layers, strict=True):
        made = node.output[0]
        outputs = prod(shapes[made]) // batch if made in shapes else None
        sized.append(layer.model_copy(update={"macs": macs.get(made), "outputs": outputs}))
    return replace(mapped, layers=tuple(sized))


def _seen(layer: FileLayer, seen: LayerStatistics | None) -> FileLayer:
    if seen is None:
        return layer
    dead, reference = seen.dead("found"), seen.dead("reference")
    update: dict[str, Any] = {
        "sqnr_db": seen.sqnr_db,
        "own_sqnr_db": seen.own_sqnr_db,
        "clipped": seen.clipped,
    }
    if dead is not None:
        update |= {"channels": dead.size, "dead_channels": int(dead.sum())}
        if reference is not None and reference.shape == dead.shape:
            update["lost_channels"] = int((dead & ~reference).sum())
    return layer.model_copy(update=update)


def _timed(layer: FileLayer, times: NodeTimes | None) -> FileLayer:
    if times is None:
        return layer
    own = [kernel for kernel in times.kernels if kernel.name == layer.name]
    if own:
        longest = max(own, key=lambda kernel: kernel.nanoseconds)
        # Less than the profiler can tell is not zero.
        update = {"time_ns": sum(each.nanoseconds for each in own) or None, "ran_as": longest.operator}
        return layer.model_copy(update={**update, "ran_in": longest.precision})
    for kernel in times.kernels:
        if layer.name in kernel.nodes:
            return layer.model_copy(update={"fused_into": kernel.name, "ran_in": kernel.precision})
    return layer


def _profile(times: NodeTimes, layers: Sequence[FileLayer]) -> RuntimeProfile:
    total = times.nanoseconds
    summed: dict[str, list[float]] = defaultdict(list)
    for kernel in times.kernels:
        summed[kernel.operator].append(kernel.nanoseconds)
    names = {layer.name for layer in layers}
    return RuntimeProfile(
        runtime=times.runtime,
        version=times.version,
        threads=times.threads,
        runs=times.runs,
        time_ns=total,
        elsewhere_ns=sum(kernel.nanoseconds for kernel in times.kernels if kernel.name not in names),
        operators=tuple(
            OperatorTime(operator=name, nodes=len(each), time_ns=sum(each), share=sum(each) / total if total else 0.0)
            for name, each in sorted(summed.items(), key=lambda item: -sum(item[1]))
        ),
    )
