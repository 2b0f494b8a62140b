"""What a bundle of other tasks than classifying images is made from, small: user's files, kits, and their networks."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter

from pipeline.bundle.content import Content
from pipeline.core.artifact import Artifact, TensorSpec, payload_digest
from pipeline.core.dataset import Arrays, Normalisation, Samples
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.store import write_artifact
from pipeline.data.arrays import kit_task
from pipeline.data.task_file import load_task_file
from pipeline.export.openvino import export_openvino
from pipeline.results.bundle import BundleOptions
from pipeline.results.run import FinalTest, Interval
from pipeline.results.scores import score_predictions, task_facts
from pipeline.tasks.config import TaskConfig
from tests.unit.bundle.small_content import LINEAGE, dataset, record, report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.core.stage import Runtime
    from pipeline.core.task import Task

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
#: An image and three numbers: what is estimated is a number, and the brightest place of a map.
TWO_INPUTS = """
import numpy as np
from scaling import scaled


class Error:
    name, unit, range, higher_is_better = "error", "mm", (0.0, float("inf")), False

    def statistic(self, prediction, target):
        return abs(float(prediction["value"][0]) - target)


class Mixed:
    metrics, classes = (Error(),), ("left", "right")
    licence = "MIT"

    def __init__(self, offset):
        self.offset = offset

    def eval_samples(self, split):
        generator = np.random.default_rng(["train", "validation", "test"].index(split))
        for place in range(9):
            image = generator.integers(0, 256, (1, 6, 6), dtype=np.uint8)
            yield f"{split} {place}", {"image": image, "meta": generator.normal(size=3).astype(np.float32)}, 0.5

    def preprocess(self, raw):
        return {"image": scaled(raw["image"]), "meta": raw["meta"] + np.float32(self.offset)}

    def decode(self, outputs):
        place = int(outputs["map"].argmax())
        return {"value": outputs["value"], "place": divmod(place, 6), "side": "left" if place % 6 < 3 else "right"}

    def show(self, prediction, raw, names):
        assert names == self.classes
        return f"{prediction['value'][0]:.2f} mm at {prediction['place']}, {prediction['side']} of {raw['image'].shape}"

    def train_batches(self, split, seed, epoch):
        import torch

        yield (torch.zeros(1),), torch.zeros(1)

    def loss(self, outputs, target):
        return outputs[0].sum()


def task(offset=1.0):
    return Mixed(offset)
"""
SCALING = "import numpy as np\n\n\ndef scaled(image):\n    return image.astype(np.float32) / np.float32(255)\n"
#: Numbers of words, and a label for each of them; the raw sample is the array alone.
TOKENS = """
import numpy as np


class Accuracy:
    name = "accuracy of labels"

    def statistic(self, prediction, target):
        return float((np.asarray(prediction) == target).mean())


class Labels:
    metrics = (Accuracy(),)
    classes = ("O", "B", "I")

    def eval_samples(self, split):
        generator = np.random.default_rng(["train", "validation", "test"].index(split))
        for place in range(9):
            words = generator.integers(1, 20, 8)
            yield f"{split} {place}", words, words % 3

    def preprocess(self, raw):
        return {"words": raw.astype(np.int64)}

    def decode(self, outputs):
        return [int(each) for each in outputs["logits"].argmax(axis=1)]


def task():
    return Labels()
"""


def weights(name: str, *shape: int) -> onnx.TensorProto:
    """Return a constant of drawn numbers."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return numpy_helper.from_array(np.random.default_rng(seed).normal(size=shape).astype(np.float32), name)


def graph(
    inputs: Mapping[str, tuple[str, Sequence[int]]],
    outputs: Mapping[str, Sequence[int]],
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """Return a network of these nodes."""
    infos = [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name, (dtype, shape) in inputs.items()]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    small = helper.make_graph(list(nodes), "small", infos, made, list(constants))
    return helper.make_model(small, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def mixed_network(batch: int) -> onnx.ModelProto:
    """Return a network of an image and numbers with two outputs."""
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["meta", "matrix"], ["linear"]),
        helper.make_node("Add", ["linear", "flat"], ["value"]),
    ]
    inputs = {"image": ("float32", (batch, 1, 6, 6)), "meta": ("float32", (batch, 3))}
    outputs = {"value": (batch, 1), "map": (batch, 1, 6, 6)}
    return graph(inputs, outputs, nodes, [weights("kernel", 1, 1, 3, 3), weights("matrix", 3, 1)])


def token_network(batch: int) -> onnx.ModelProto:
    """Return a network that looks words up and gives logits [N, 8, 3]."""
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["found"]),
        helper.make_node("MatMul", ["found", "matrix"], ["logits"]),
    ]
    inputs = {"words": ("int64", (batch, 8))}
    return graph(inputs, {"logits": (batch, 8, 3)}, nodes, [weights("table", 20, 4), weights("matrix", 4, 3)])


def image_network(outputs: Mapping[str, tuple[int, int]]) -> onnx.ModelProto:
    """Return a network of images [1, 3, 32, 32] with a convolution for each output: channels and stride."""
    nodes, constants, made = [], [], {}
    for name, (channels, stride) in outputs.items():
        nodes.append(helper.make_node("Conv", ["input", f"{name} kernel"], [name], strides=[stride, stride]))
        constants.append(weights(f"{name} kernel", channels, 3, stride, stride))
        made[name] = (1, channels, 32 // stride, 32 // stride)
    return graph({"input": ("float32", (1, 3, 32, 32))}, made, nodes, constants)


def kit_content(folder: Path, kind: str, **options: Any) -> Content:  # noqa: ANN401 - those of a bundle
    """Return what the bundle of a small detector, a segmenter or a labeller of words is made from."""
    network = {
        "detection": lambda: image_network({"near": (6, 4), "far": (6, 8)}),
        "segmentation": lambda: image_network({"logits": (2, 2)}),
        "token": lambda: token_network(1),
    }[kind]()
    config = {"kind": kind, **({"strides": (4, 8)} if kind == "detection" else {})}
    data = Arrays("drawn", *(_samples(kind, seed) for seed in range(3)), **_facts(kind))
    task = kit_task(TypeAdapter(TaskConfig).validate_python(config), data, "data")
    return task_content(folder, task, network, **options)


def _facts(kind: str) -> dict[str, Any]:
    if kind == "token":
        return {"classes": ("O", "B-X", "I-X"), "licence": "MIT"}
    normalisation = Normalisation((0.4, 0.45, 0.5), (0.2, 0.25, 0.3))
    return {"classes": ("plain", "striped"), "licence": "MIT", "normalisation": normalisation}


def _samples(kind: str, seed: int) -> Samples:
    generator, count = np.random.default_rng(100 + seed), 6
    if kind == "token":
        words = generator.integers(0, 20, (count, 8))
        return Samples({"words": words}, words % 3)
    images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    if kind == "segmentation":
        return Samples({"input": images}, generator.integers(0, 2, (count, 16, 16)))
    return Samples({"input": images}, [np.array([[2, 3, 14, 15, place % 2]], np.float32) for place in range(count)])


def file_task(folder: Path, text: str, **arguments: Any) -> Task:  # noqa: ANN401 - whatever the file takes
    """Return the task of a user's file, which is written with the module beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaling.py").write_text(SCALING)
    (folder / "my_task.py").write_text(text)
    return load_task_file(folder / "my_task.py", arguments)


def task_content(
    folder: Path,
    task: Task,
    network: onnx.ModelProto,
    *,
    runtimes: tuple[Runtime, ...] = ("onnxruntime", "openvino"),
    **options: Any,  # noqa: ANN401 - those of a bundle
) -> Content:
    """Write the stages of a run below `folder` and return what a bundle of it is made from."""
    made, converted = folder / "stages" / "03-export", folder / "stages" / "04-export"
    made.mkdir(parents=True)
    onnx.save(network, made / "model.onnx")
    _write_stage(made, "onnx", network)
    files = {"onnxruntime": made / "model.onnx"}
    if "openvino" in runtimes:
        export_openvino(made / "model.onnx", converted)
        _write_stage(converted, "openvino", network)
        files["openvino"] = converted / "model.xml"
    run = report(dataset(), made, batch=1)
    targets = task.targets("test", slice(None))
    score = score_predictions(task.metrics, _answers(task, network), targets)
    final = FinalTest(original=score, result=score, difference=Interval(value=0.0, low=-0.01, high=0.01))
    rows = tuple(row.model_copy(update={"validation": score}) for row in run.rows)
    update = {"task": task_facts(task), "rows": rows, "final": final, "target": Target(batch=_batch(network))}
    return Content(
        report=run.model_copy(update=update),
        run_folder=folder,
        files={runtime: files[runtime] for runtime in runtimes},
        runtime=runtimes[0],
        task=task,
        options=BundleOptions(**options),
        progress=SilentProgress(),
    )


def _answers(task: Task, network: onnx.ModelProto) -> list[Any]:
    """Return what the task decodes of outputs that are all zero."""
    count = task.count("test")
    return task.predictions({spec.name: np.zeros((count, *spec.shape[1:])) for spec in _specs(network.graph.output)})


def _batch(network: onnx.ModelProto) -> int:
    return int(network.graph.input[0].type.tensor_type.shape.dim[0].dim_value)


def _specs(infos: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    names = {number: name for name, number in TYPES.items()}
    return tuple(
        TensorSpec(
            name=info.name,
            shape=tuple(size.dim_value for size in info.type.tensor_type.shape.dim),
            dtype=names[info.type.tensor_type.elem_type],
        )
        for info in infos
    )


def _write_stage(folder: Path, form: str, network: onnx.ModelProto) -> None:
    artifact = Artifact(
        form=form,
        folder=folder,
        digest=payload_digest(form, folder),
        inputs=_specs(network.graph.input),
        outputs=_specs(network.graph.output),
        lineage=LINEAGE if form == "onnx" else (*LINEAGE, record("export", to=form)),
    )
    write_artifact(artifact, folder)
