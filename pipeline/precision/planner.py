"""`engine: auto` of a recipe: what is known of the target, the data, and the search over both."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compress.quantization.placement import matching_nodes, require_float_and_folded
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.core.errors import InputError, StageError
from pipeline.core.feeds import sample_count, take_samples
from pipeline.core.runtimes import RUNTIMES
from pipeline.measure.devices import open_device
from pipeline.measure.machine import machine_fingerprint
from pipeline.measure.subjects import MeasureTerms, start_worker
from pipeline.onnx_graph.file import read_onnx
from pipeline.precision.evaluation import Evaluation
from pipeline.precision.exactness import expected
from pipeline.precision.nearness import net_of
from pipeline.precision.problem import SearchProblem, file_of, plan_of
from pipeline.precision.request import calibration_images, request_of, training_images
from pipeline.precision.search import search
from pipeline.precision.targets import target_facts

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.artifact import Artifact
    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Context, Runtime
    from pipeline.core.units import ScoreDrop
    from pipeline.measure.devices import Device
    from pipeline.precision.config import QuantizationConfig
    from pipeline.precision.exactness import Expected
    from pipeline.precision.targets import TargetFacts
    from pipeline.results.precision import PrecisionPlan

#: Training images on which noise is compared; nothing is calibrated on them.
HELD_OUT = 128
CANDIDATES = "candidates"
#: The processors that must agree when the sums must be the same on ARM: an x86 one with the kernels that clip.
AVX2 = {"architecture": "x86_64", "isa": ["avx", "avx2"]}
ARM = {"architecture": "aarch64", "isa": ["asimd"]}


def find_precision(
    config: QuantizationConfig,
    given: Artifact,
    context: Context,
    *,
    score_drop: ScoreDrop,
    budget_s: float,
    arm_exact: bool,
) -> tuple[Path, PrecisionPlan]:
    """Search, and return the chosen file (the given one when nothing is better) with everything that was tried.

    Candidates lie in a folder of the context's until the caller removes it; what a killed run left there is removed.

    Raises:
        InputError: the target's runtime reads no ONNX file, the file is quantized already, the data has too few
            training images, none to validate on, or some that are not finite, or a pattern of `keep` matches no node.
        StageError: batch norm is not folded, or the float network's values are not finite.
        DeviceError: the target's device cannot be reached, or went away.
    """
    began = time.monotonic()
    target = context.target
    if target.runtime == "torch":
        raise InputError(
            "quantize: engine auto times files, found target.runtime torch, allowed: onnxruntime, openvino"
        )
    task = context.task()
    if fault := score_drop.fault(task.judged.unit):
        raise InputError(f"quantize: score_drop: {fault}, since the task is judged by {task.judged.name}")
    if not task.count("validation"):
        raise InputError("quantize: engine auto measures the score on the validation split, which is empty")
    model = read_onnx(given.file)
    require_float_and_folded(model)
    matching_nodes(model, config.keep)
    calibrated = calibration_images(config, context, model)
    held_out = _held_out(context, calibrated.feeds)
    every_image = {name: np.concatenate([values, held_out[name]]) for name, values in calibrated.feeds.items()}
    activation_ranges(
        model, every_image, calibration="min-max", percentile=config.percentile, keep=config.keep
    )  # refuses what is not finite
    device = None if target.device == "local" else open_device(target.device)
    facts = facts_of(device, target.runtime)
    schemes = facts.schemes if config.scheme == "auto" else (config.scheme,)
    evaluation = Evaluation(
        runtime=target.runtime,
        target=target,
        held_out=held_out,
        task=task,
        seed=context.seed,
        progress=context.progress,
        device=device,
        net=net_of(given.file, context, sample_count(calibrated.feeds)),
        output_names=tuple(output.name for output in given.outputs),
    )
    folder = context.folder / CANDIDATES
    if folder.exists():  # of a run that was killed
        shutil.rmtree(folder)
    question = SearchProblem(
        given=given.file,
        folder=folder,
        feeds=calibrated.feeds,
        facts=facts,
        score_drop=score_drop,
        budget_s=budget_s,
        request=request_of(config, schemes[0] if schemes else "u8s8"),
        schemes=schemes,
        inexact_on_arm=inexact_on_arm if arm_exact else None,
    )
    found = search(question, evaluation, context.progress)
    plan = plan_of(question, evaluation, found, moved=calibrated.moved, began=began)
    return file_of(found.chosen), plan


def _held_out(context: Context, calibrated: Feeds) -> Feeds:
    """Return training samples that are not calibrated on; where there are no others, those that are."""
    used = sample_count(calibrated)
    others = min(HELD_OUT, context.task().count("train") - used)
    return training_images(context, others, after=used) if others > 0 else take_samples(calibrated, slice(HELD_OUT))


def facts_of(device: Device | None, runtime: Runtime) -> TargetFacts:
    """Return what is known of the target's processor with a runtime; another device than this one is asked for it."""
    if device is None:
        return target_facts(machine_fingerprint(), runtime, version(RUNTIMES[runtime].package))
    with ExitStack() as stack:
        _, hello = start_worker(stack, device, MeasureTerms(threads=1, batch=1))
    return target_facts(hello["fingerprint"], runtime, hello["packages"].get(RUNTIMES[runtime].package))


def require_exact_on_arm(model: ModelProto) -> list[str]:
    """Return the names of the float nodes that may round otherwise on ARM: with none the outputs are the same.

    Raises:
        StageError: the graph's sums on an x86 or ARM processor are not those of the other.
    """
    reason = inexact_on_arm(model)
    if reason:
        raise StageError(f"arm_exact: the file {reason}. Use scheme u8s8-reduced or u8u8, or another engine")
    return list(_on_both(model).floats)


def _on_both(model: ModelProto) -> Expected:
    return expected(model, *(target_facts(each, "onnxruntime") for each in (AVX2, ARM)))


def inexact_on_arm(model: ModelProto) -> str:
    """Say why a graph's sums differ between x86 processors, with or without VNNI, and ARM; empty when they do not.

    The kernels are those of onnxruntime.
    """
    found = _on_both(model)
    if found.expectation != "differs":
        return ""
    first = found.inexact[0]
    return f"does not compute the same on ARM: {first.layer}: {first.reason} ({len(found.inexact)} layers)"
