"""What a bundle is made from, small: a drawn data set, a network of one convolution, and the report of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.bundle.content import Content
from pipeline.core.artifact import Artifact, StageRecord, TensorSpec, payload_digest
from pipeline.core.dataset import Dataset, Normalisation, Preprocessing, Split
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.store import write_artifact
from pipeline.data.arrays import image_classifier
from pipeline.export.openvino import export_openvino
from pipeline.results.bundle import BundleOptions
from pipeline.results.run import FinalTest, Interval, Row, RunReport, Timing
from pipeline.results.scores import paired_difference, score_predictions
from pipeline.tasks.classification import Classification

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime

CLASSES = ("plain", "striped", "dotted")
SIDE = 12


def drawn(count: int, channels: int, seed: int) -> Split:
    """Return smooth images of three classes, which differ in their pattern."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    coarse = generator.integers(40, 160, (count, channels, SIDE // 3, SIDE // 3))
    images = np.kron(coarse, np.ones((3, 3), np.int64))
    images[labels == 1, :, ::2] += 60
    images[labels == 2, :, ::2, ::2] += 90
    return Split(images.astype(np.uint8), labels.astype(np.int64))


def dataset(channels: int = 1, preprocessing: Preprocessing | None = None, licence: str = "MIT") -> Dataset:
    """Return a data set of images with one or three channels."""
    colour = "grey" if channels == 1 else "rgb"
    return Dataset(
        "drawn",
        CLASSES,
        Normalisation((0.4, 0.45, 0.5)[:channels], (0.2, 0.25, 0.3)[:channels]),
        *(drawn(count, channels, seed) for count, seed in ((48, 0), (24, 1), (24, 2))),  # type: ignore[arg-type]
        preprocessing=preprocessing or Preprocessing(colour, "stretch"),  # type: ignore[arg-type]
        licence=licence,
    )


def network(channels: int, batch: int | str, *, scale: float = 1.0) -> onnx.ModelProto:
    """Return a convolution of four filters, ReLU, the mean, and a linear layer to three classes."""
    generator = np.random.default_rng(3)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(scale * generator.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["features"]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, channels, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(CLASSES)])],
        [weights("kernel", 4, channels, 3, 3), weights("matrix", 4, 3), weights("bias", 3)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write_stage(folder: Path, form: str, lineage: tuple[StageRecord, ...], batch: int) -> None:
    """Write artifact.json beside the files of a stage."""
    channels = onnx.load(folder.parent / "03-export" / "model.onnx").graph.input[0].type.tensor_type.shape.dim[1]
    artifact = Artifact(
        form=form,  # type: ignore[arg-type]
        folder=folder,
        digest=payload_digest(form, folder),  # type: ignore[arg-type]
        inputs=(TensorSpec(name="input", shape=(batch, channels.dim_value, SIDE, SIDE), layout="NCHW"),),
        outputs=(TensorSpec(name="logits", shape=(batch, len(CLASSES))),),
        lineage=lineage,
    )
    write_artifact(artifact, folder)


def record(kind: str, *, changed: dict[str, Any] | None = None, **config: Any) -> StageRecord:  # noqa: ANN401
    """Return what a stage did."""
    return StageRecord(
        kind=kind,
        revision=1,
        config={"kind": kind, **config},
        parent_digest="0" * 64,
        seconds=2.5,
        changed=changed or {},
    )


LINEAGE = (
    record("prune", changed={"parameters": {"before": 900, "after": 500}}, ratio=0.5),
    record("export", to="onnx"),
)


def content(
    folder: Path,
    data: Dataset | None = None,
    *,
    batch: int = 1,
    runtimes: tuple[Runtime, ...] = ("onnxruntime", "openvino"),
    lineage: tuple[StageRecord, ...] = LINEAGE,
    scale: float = 1.0,
    **options: Any,  # noqa: ANN401
) -> Content:
    """Write the stages of a run below `folder` and return what a bundle of it is made from."""
    data = data or dataset()
    made, converted = folder / "stages" / "03-export", folder / "stages" / "04-export"
    made.mkdir(parents=True)
    onnx.save(network(len(data.normalisation.mean), batch, scale=scale), made / "model.onnx")
    write_stage(made, "onnx", lineage, batch)
    files = {"onnxruntime": made / "model.onnx"}
    if "openvino" in runtimes:
        export_openvino(made / "model.onnx", converted)
        write_stage(converted, "openvino", (*lineage, record("export", to="openvino")), batch)
        files["openvino"] = converted / "model.xml"
    return Content(
        report=report(data, made, batch=batch),
        run_folder=folder,
        files={runtime: files[runtime] for runtime in runtimes},
        runtime=runtimes[0],
        task=image_classifier(data),
        options=BundleOptions(**options),
        progress=SilentProgress(),
    )


def report(data: Dataset, made: Path, *, batch: int) -> RunReport:
    """Return the report of a run that pruned and exported."""
    labels: NDArray[np.int64] = data.test.labels
    before, after = labels.copy(), labels.copy()
    classes = len(data.classes)
    metrics = Classification(classes=classes).metrics
    before[:2], after[:3] = (before[:2] + 1) % classes, (after[:3] + 1) % classes
    scores = [score_predictions(metrics, found.tolist(), labels.tolist()) for found in (before, after)]
    difference = paired_difference(metrics[0], before.tolist(), after.tolist(), labels.tolist())
    final = FinalTest(original=scores[0], result=scores[1], difference=difference)
    slow = Timing(runtime="onnxruntime", threads=1, milliseconds=Interval(value=2.34567, low=2.3, high=2.4))
    fast = Timing(
        runtime="onnxruntime",
        threads=1,
        milliseconds=Interval(value=0.98765, low=0.95, high=1.02),
        speedup=Interval(value=2.375, low=2.31, high=2.44),
    )
    common = {"seconds": 1.5, "parameters": 900, "macs": 81_000, "gzip_bytes": 3_000}
    rows = (
        Row(index=0, label="original", kind="original", form="torch", digest="1" * 64, folder="stages/00-original",
            validation=scores[0], size_bytes=5_000, timings=(slow,), **common),  # type: ignore[arg-type]
        Row(index=1, label="export", kind="export", form="onnx", digest=payload_digest("onnx", made),
            config={"to": "onnx"}, folder="stages/03-export", validation=scores[1], size_bytes=2_100, timings=(fast,),
            **{**common, "parameters": 500, "macs": 40_000}),  # type: ignore[arg-type]
    )  # fmt: skip
    return RunReport(
        name="patterns on a small board",
        recipe_file="patterns.yaml",
        recipe={"name": "patterns on a small board", "model": {"definition": "net.py"}, "stages": []},
        recipe_digest="2" * 64,
        data={"name": data.name, "classes": list(data.classes), "train": 48, "validation": 24, "test": 24},
        target=Target(runtime="onnxruntime", threads=1, batch=batch),
        seed=7,
        versions={"secateur": "0.1.0", "onnxruntime": "1.31.1", "openvino": "2026.4.1", "numpy": "2.4.6"},
        machine={"cpu_model": "Example 1000", "architecture": "x86_64", "logical_cores": 2, "isa": ["avx2"]},
        started="2026-11-24T10:00:00+00:00",
        seconds=12.0,
        status="finished",
        rows=rows,
        final=final,
    )
