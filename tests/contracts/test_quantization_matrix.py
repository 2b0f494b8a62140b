"""Every family of networks, really pruned, quantized in both ways, in both runtimes: files compute what they should.

Each cell starts from the same pruned network, goes through the stages of a recipe, and compares the outputs of the
exported int8 file with those of the exported float file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from pydantic import TypeAdapter

from pipeline.core.artifact import Artifact, TensorSpec, payload_digest
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.stage import Context, Stage, Target
from pipeline.data.arrays import image_classifier
from pipeline.export.execution import openvino_outputs
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, write_original
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.stages import AnyStage
from tests.feeds import fed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.core.stage import Outcome

    Way = Literal["after training", "in training"]
    Runtime = Literal["onnxruntime", "openvino"]

pytestmark = pytest.mark.slow  # the first cell of each family
ADAPTER: TypeAdapter[Stage] = TypeAdapter(AnyStage)
DEFINITION = Path(__file__).with_name("matrix_networks.py")
FAMILIES = ("residual", "depthwise", "grouped", "concat", "squeeze-excite", "attention")
WAYS: tuple[Way, ...] = ("after training", "in training")
RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino")
SIZE, CLASSES = 12, 4
#: Linear layers of the attention block, which are products of matrices in the file; two more have no weights.
LINEAR = 6

#: Weights in seven bits: sums are right on every processor.
COMMON = {"scheme": "u8s8-reduced", "images": 32, "calibration": "mse"}
QUANTIZED: dict[Way, dict[str, Any]] = {
    "after training": {"kind": "quantize", **COMMON},
    "in training": {
        "kind": "quantize-aware-finetune",
        **COMMON,
        "epochs": 1,
        "batch": 16,
        "learning_rate": 1e-5,
        "freeze_norms": 0,  # so that the network stays comparable
    },
}
#: How near the outputs are, as signal-to-noise ratio in dB: to the float file, and of one runtime to the other.
NEAR, AGREE = 30.0, 40.0


@dataclass(frozen=True)
class Cell:
    """The pruned network's float files and the int8 ones, ONNX then OpenVINO; and what quantization told."""

    network: Artifact
    flown: tuple[Artifact, Artifact]
    quantized: tuple[Artifact, Artifact]
    told: dict[str, Any]


def split(images: int, seed: int) -> Split:
    """Return images [N, 3, 12, 12] of stripes on noise; their direction and width are the label."""
    draws = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    places = np.arange(SIZE)
    stripes = [
        np.broadcast_to(np.sin(places * speed)[:, None] if across else np.sin(places * speed), (SIZE, SIZE))
        for across in (True, False)
        for speed in (0.8, 2.0)
    ]
    pixels = 128 + 70 * np.stack(stripes)[labels][:, None] * draws.uniform(0.5, 1, (images, 3, 1, 1))
    noisy = pixels + draws.normal(0, 25, (images, 3, SIZE, SIZE))
    return Split(np.clip(noisy, 0, 255).astype(np.uint8), labels)


DATA = Dataset(
    "stripes", tuple("abcd"), Normalisation((0.5,) * 3, (0.25,) * 3), split(160, 0), split(64, 1), split(64, 2)
)
IMAGES = DATA.normalisation(DATA.test.images)


class Runner:
    """Runs stages one after the other, each in a folder of its own, as the runner does."""

    def __init__(self, folder: Path, original: Artifact) -> None:
        self.folder, self.original = folder, original

    def run(self, given: Artifact, name: str, **config: Any) -> tuple[Artifact, Outcome]:  # noqa: ANN401 - a recipe's
        """Run one stage."""
        folder = self.folder / name
        folder.mkdir()
        context = Context(
            folder=folder, seed=0, target=Target(), original=self.original, task=lambda: image_classifier(DATA)
        )
        outcome = ADAPTER.validate_python(config).run(given, context)
        assert outcome.form is not None
        digest = payload_digest(outcome.form, folder)
        made = Artifact(form=outcome.form, folder=folder, digest=digest, inputs=outcome.inputs, outputs=outcome.outputs)
        return made, outcome


def parameters(network: Artifact) -> int:
    """Return how many numbers a network has."""
    return sum(each.numel() for each in load_network(network).parameters())


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - a function
    """Return what makes the files of a family and a way, each once."""

    @cache
    def pruned(family: str) -> tuple[Runner, Artifact, tuple[Artifact, Artifact]]:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(family)
        (folder / "original").mkdir()
        arguments = {"family": family}
        write_original(folder / "original", build_network(DEFINITION, arguments), DEFINITION, arguments)
        original = Artifact(
            form="torch",
            folder=folder / "original",
            digest=payload_digest("torch", folder / "original"),
            inputs=(TensorSpec(name="input", shape=(-1, 3, SIZE, SIZE)),),
            outputs=(TensorSpec(name="scores", shape=(-1, CLASSES)),),
        )
        runner = Runner(folder, original)
        training = {"kind": "finetune", "batch": 16, "learning_rate": 3e-3, "warmup": 0.5}
        trained, _ = runner.run(original, "trained", **training, epochs=2)
        smaller, _ = runner.run(trained, "pruned", kind="prune", ratio=0.4, align=4)
        assert parameters(smaller) < 0.8 * parameters(original)
        tuned, _ = runner.run(smaller, "tuned", **training, epochs=2)
        plain, _ = runner.run(tuned, "onnx", kind="export", to="onnx")
        ir, _ = runner.run(plain, "openvino", kind="export", to="openvino")
        return runner, tuned, (plain, ir)

    @cache
    def made(family: str, way: Way) -> Cell:
        runner, network, flown = pruned(family)
        given = flown[0] if way == "after training" else network
        int8, outcome = runner.run(given, way, **QUANTIZED[way])
        ir, _ = runner.run(int8, f"{way} openvino", kind="export", to="openvino")
        return Cell(network, flown, (int8, ir), dict(outcome.changed))

    return made


def outputs(artifact: Artifact) -> NDArray[np.float32]:
    """Return the logits of a file on the kernels that its runtime has for it."""
    if artifact.form == "onnx":
        return onnx_outputs(artifact.file, fed(IMAGES), optimised=True)[0]
    return openvino_outputs(artifact.file, fed(IMAGES))[0]


def decibels(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the signal-to-noise ratio of logits, whose mean over classes means nothing."""
    one, other = (each - each.mean(1, keepdims=True) for each in (expected, found))
    return float(10 * np.log10(np.square(one).sum() / max(np.square(one - other).sum(), 1e-30)))


def agreement(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the share of images with the same largest logit."""
    return float((expected.argmax(1) == found.argmax(1)).mean())


each_family = pytest.mark.parametrize("family", FAMILIES)
each_way = pytest.mark.parametrize("way", WAYS)


@each_family
@each_way
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_int8_file_computes_what_the_float_file_does(cell: Any, family: str, way: Way, runtime: Runtime) -> None:  # noqa: ANN401
    """In the same runtime, finite and near; and it is as right about labels as the float file."""
    place = RUNTIMES.index(runtime)
    made: Cell = cell(family, way)
    expected, found = outputs(made.flown[place]), outputs(made.quantized[place])
    assert np.isfinite(found).all()
    assert decibels(expected, found) > NEAR
    assert agreement(expected, found) > 0.9
    right = [float((each.argmax(1) == DATA.test.labels).mean()) for each in (expected, found)]
    assert right[0] > 0.5
    assert right[1] > right[0] - 0.1


@each_family
@each_way
def test_both_runtimes_agree(cell: Any, family: str, way: Way) -> None:  # noqa: ANN401
    """On the int8 file, whose integers they sum alike."""
    one, other = map(outputs, cell(family, way).quantized)
    assert decibels(one, other) > AGREE
    assert agreement(one, other) > 0.95


@each_family
@each_way
def test_integer_kernels_run_in_onnxruntime(cell: Any, family: str, way: Way, tmp_path: Path) -> None:  # noqa: ANN401
    """As many as were counted, and every convolution and linear layer of the network among them."""
    made: Cell = cell(family, way)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    onnxruntime.InferenceSession(made.quantized[0].file, options, providers=["CPUExecutionProvider"])
    run = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node)
    layers = Counter(node.op_type for node in onnx.load(made.flown[0].file).graph.node)
    told = made.told["quantized_nodes"]
    assert run["QLinearConv"] == told["Conv"] == layers["Conv"] > 1
    assert run["QGemm"] == told["Gemm"] == layers["Gemm"]
    products = run["QLinearMatMul"] + run["MatMulIntegerToFloat"]
    assert products == told.get("MatMul", 0) == layers["MatMul"]
    assert not run["Conv"] + run["FusedConv"] + run["Gemm"] + run["MatMul"]


@each_family
@each_way
def test_the_openvino_file_holds_integers_and_runs_on_them(cell: Any, family: str, way: Way) -> None:  # noqa: ANN401
    """Weights of eight bits and quantized activations in the file, integer kernels when it is compiled."""
    made: Cell = cell(family, way)
    core = openvino.Core()
    model = core.read_model(made.quantized[1].file)
    operations = Counter(each.get_type_name() for each in model.get_ops())
    stored = Counter(
        each.get_element_type().get_type_name()
        for each in model.get_ops()
        if each.get_type_name() == "Constant" and len(each.shape) > 1
    )
    told = made.told["quantized_nodes"]
    layers = told["Conv"] + told["Gemm"] + (LINEAR if family == "attention" else 0)
    assert stored["i8"] == layers
    assert operations["FakeQuantize"] >= layers
    kernels = Counter(
        each.get_rt_info()["layerType"].astype(str)
        for each in core.compile_model(model, "CPU").get_runtime_model().get_ops()
        if each.get_rt_info()["runtimePrecision"].astype(str) in {"u8", "i8"}
    )
    assert kernels["Convolution"] == told["Conv"]
    assert kernels["Convolution"] + kernels["FullyConnected"] == layers
