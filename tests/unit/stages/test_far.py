"""A quantized file that is far from its float file goes back to float layer by layer, fails, or is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.quantization.engines.engine import missing_engine
from pipeline.compress.quantization.engines.registry import ENGINES, available
from pipeline.compress.quantization.names import EngineName
from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.errors import StageError
from pipeline.core.nearness import NEARNESS, Nearness
from pipeline.core.stage import Target
from pipeline.onnx_graph.file import read_onnx, write_onnx
from pipeline.precision import making, variant
from pipeline.results.precision import PrecisionPlan
from pipeline.stages.quantize import Quantize
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from pipeline.stages.quantize_aware import training as quantization_training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import Engine, QuantizedGraph, QuantizeRequest
    from pipeline.core.feeds import Feeds
    from pipeline.core.stage import Context, Outcome
    from pipeline.precision.nearness import MadeFile

    Run = Callable[..., tuple[Artifact, Outcome]]

FAR = r"quantize: far from the float file: -?\d+\.\d dB of signal to noise where at least 10 are expected on "


def quantize(**settings: Any) -> Quantize:  # noqa: ANN401 - any setting of a recipe
    """Return the stage with few images."""
    return Quantize.model_validate({"kind": "quantize", "images": 16, **settings})


def near(outcome: Outcome) -> Nearness:
    """Return what the stage found."""
    return Nearness.model_validate(outcome.changed[NEARNESS])


@dataclass
class Broken:
    """An engine that stores one layer's weights with another scale, unless that layer is kept in float."""

    engine: Engine
    layer: str
    factor: float

    def quantize(self, model: ModelProto, feeds: Feeds, request: QuantizeRequest) -> QuantizedGraph:
        """Quantize as the engine does, and break it."""
        made = self.engine.quantize(model, feeds, request)
        if self.layer in request.keep:
            return made
        return replace(made, model=scaled(made.model, self.layer, self.factor))


def scaled(model: ModelProto, name: str, factor: float) -> ModelProto:
    """Return a QDQ graph with another scale of a layer's weights."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    makers = {value: node for node in result.graph.node for value in node.output}
    layer = next(node for node in result.graph.node if node.name == name)
    scale = makers[layer.input[1]].input[1]
    tensor = next(each for each in result.graph.initializer if each.name == scale)
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(np.float32), scale))
    return result


def break_engines(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Let every engine be a broken one."""
    original = variant.open_engine
    monkeypatch.setattr(variant, "open_engine", lambda name: Broken(original(name), layer, 5.0))


@pytest.fixture(params=get_args(EngineName))
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Return an engine that is installed."""
    command = missing_engine(ENGINES[request.param]())
    if command is not None:
        pytest.skip(f"the engine is not installed: {command}")
    found: EngineName = request.param
    return found


def test_the_guilty_layer_of_any_engine_goes_back_to_float(
    run_stage: Run, onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, engine: EngineName
) -> None:
    """That one alone; without the fault the file is near and nothing is changed."""
    plain, outcome = run_stage(quantize(engine=engine), onnx_artifact, "plain")
    assert near(outcome).decision == "near"
    assert near(outcome).decibels > 15
    assert {each.session for each in near(outcome).seen} == {"onnxruntime", "onnxruntime unoptimised"}
    assert {each.images for each in near(outcome).seen} == {"calibration", "held-out"}
    break_engines(monkeypatch, "fc")
    mended, outcome = run_stage(quantize(engine=engine), onnx_artifact, "mended")
    assert (near(outcome).decision, near(outcome).in_float) == ("float", ("fc",))
    assert near(outcome).decibels > 15
    assert "fc" in outcome.changed["float_nodes"]
    assert outcome.changed["quantized_nodes"] == {"Add": 1, "Conv": 2}
    assert mended.digest != plain.digest


@pytest.mark.slow
def test_the_search_takes_no_far_file(
    make_context: Callable[..., Context], onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it may lose in accuracy: all of static int8 is far, and the mended file is listed."""
    break_engines(monkeypatch, "fc")
    stage = quantize(engine="auto", scheme="auto", budget="1s", accuracy_drop="100pt")
    changed = stage.run(onnx_artifact, make_context("auto")).changed
    plan = PrecisionPlan.model_validate(changed["plan"])
    static = [row for row in plan.candidates if row.engine]
    far = {row.label: row.engine for row in static if row.reason.startswith("far from the float file: ")}
    assert {*far.values()} == {*available()}
    assert [row.float_nodes for row in static if row.label not in far and row.size_bytes] == [("fc",)]
    assert changed[NEARNESS]["decision"] == "near" if plan.chosen else NEARNESS not in changed


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_a_far_file_fails_or_is_kept_when_the_recipe_says_so(
    make_context: Callable[..., Context], onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """In the runtime of the target, and where that reads no file in onnxruntime."""
    break_engines(monkeypatch, "fc")
    context = replace(make_context("far"), target=Target(runtime=runtime))
    with pytest.raises(StageError, match=FAR) as caught:
        quantize(on_far="fail").run(onnx_artifact, context)
    assert caught.value.exit_code == 3
    found = near(quantize(on_far="keep").run(onnx_artifact, context))
    assert found.decision == "kept"
    assert found.text.startswith("far from the float file: ")
    assert found.decibels < 10
    assert "openvino" in {each.session for each in found.seen} or runtime != "openvino"


def test_a_dropped_clip_is_found(run_stage: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no layer with weights, and goes back alone."""
    given = products(tmp_path / "clip.onnx", clip=True)
    original = making.build

    def without_clip(model: ModelProto, samples: Any, asked: Any, progress: Any) -> QuantizedGraph:  # noqa: ANN401
        return original(model if "clip" in asked.in_float else dropped(model), samples, asked, progress)

    monkeypatch.setattr(making, "build", without_clip)
    _, outcome = run_stage(quantize(), given, "mended")
    assert (near(outcome).decision, near(outcome).in_float) == ("float", ("clip",))


def aware(**settings: Any) -> QuantizeAwareFinetune:  # noqa: ANN401 - any setting of a recipe
    """Return quantization-aware training of one epoch."""
    return QuantizeAwareFinetune.model_validate(
        {"kind": "quantize-aware-finetune", "epochs": 1, "batch": 8, "images": 16, "scheme": "u8s8-reduced"}
        | {"optimizer": "sgd", "learning_rate": 1e-3, "warmup": 0, **settings}
    )


@pytest.mark.parametrize("when", ["calibrated", "trained"])
def test_training_goes_on_with_guilty_layers_in_float(
    run_stage: Run, network: Artifact, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Found before it begins, so that nothing is trained in vain, and once more in what was trained."""
    _, outcome = run_stage(aware(), network, "plain")
    assert near(outcome).decision == "near"
    assert near(outcome).decibels > 15
    original = quantization_training.QdqFile.__call__

    def broken(self: quantization_training.QdqFile, in_float: tuple[str, ...]) -> MadeFile:
        made = original(self, in_float)
        if "fc" not in self.keeping(in_float) and (self.file.name == "model.onnx" or when == "calibrated"):
            # Its first call writes the file that is compared with the simulation.
            if when == "calibrated" or len(calls) > 0:
                write_onnx(scaled(read_onnx(self.file), "fc", 5.0), self.file)
            calls.append(self.file.name)
        return made

    calls: list[str] = []
    monkeypatch.setattr(quantization_training.QdqFile, "__call__", broken)
    mended, outcome = run_stage(aware(), network, "mended")
    assert (near(outcome).decision, near(outcome).in_float) == ("float", ("fc",))
    assert near(outcome).text.startswith("far from the float file: ")
    assert near(outcome).decibels > 15
    assert "fc" in outcome.changed["float_nodes"]
    assert sorted(path.name for path in mended.folder.iterdir()) == ["model.onnx"]
    calls.clear()
    with pytest.raises(StageError, match=FAR.replace("quantize", "quantize-aware-finetune")) as caught:
        run_stage(aware(on_far="fail"), network, "fails")
    assert caught.value.exit_code == 3
    calls.clear()
    if when == "trained":
        assert near(run_stage(aware(on_far="keep"), network, "kept")[1]).decision == "kept"


PRECISIONS = ("fp16", "fp16-weights", "int8-weights", "int4-weights", "int8-dynamic")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_guilty_layer_of_any_precision_goes_back_to_float(
    run_stage: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Its weights are those of the float file, and the other layer stays in fewer bits."""
    given = products(tmp_path / "float.onnx")
    _, outcome = run_stage(quantize(precision=precision), given, "plain")
    assert near(outcome).decision == "near"
    assert {each.images for each in near(outcome).seen} == {"held-out"}
    break_precisions(monkeypatch, "first")
    mended, outcome = run_stage(quantize(precision=precision), given, "mended")
    assert (near(outcome).decision, near(outcome).in_float) == ("float", ("first",))
    weights = {each.name.removesuffix(".wide"): each for each in read_onnx(mended.file).graph.initializer}
    assert np.array_equal(*(numpy_helper.to_array(each) for each in (weights["w1"], initial(given, "w1"))))
    assert "w2" not in weights or weights["w2"].data_type != TensorProto.FLOAT
    with pytest.raises(StageError, match=FAR):
        run_stage(quantize(precision=precision, on_far="fail"), given, "fails")
    monkeypatch.undo()
    break_precisions(monkeypatch, "")
    with pytest.raises(StageError, match=r"nothing is left in fewer bits|back into float does not fix it"):
        run_stage(quantize(precision=precision), given, "hopeless")


def products(file: Path, *, clip: bool = False) -> Artifact:
    """Write two products with a ReLU between, or a clip, of images [1, 1, 8, 8]."""
    generator = np.random.default_rng(0)
    weights = {
        "w1": generator.standard_normal((64, 32)),
        "w2": generator.standard_normal((32, 3)),
        "low": np.array(5.0),
        "high": np.array(9.0),
        "axis": np.array([1, -1]),
    }
    between = helper.make_node("Clip", ["a", "low", "high"], ["b"], "clip") if clip else None
    nodes = [
        helper.make_node("Reshape", ["input", "axis"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w1"], ["a"], "first"),
        between or helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "second"),
    ]
    stored = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    ends = [helper.make_tensor_value_info(*each) for each in (("input", 1, [1, 1, 8, 8]), ("y", 1, [1, 3]))]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], stored)
    write_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    folder = file.parent / file.stem
    folder.mkdir()
    file.replace(folder / "model.onnx")
    inputs, outputs = TensorSpec(name="input", shape=(1, 1, 8, 8)), TensorSpec(name="y", shape=(1, 3))
    return Artifact(form="onnx", folder=folder, digest="", inputs=(inputs,), outputs=(outputs,))


def initial(given: Artifact, name: str) -> TensorProto:
    """Return a stored tensor."""
    return next(each for each in read_onnx(given.file).graph.initializer if each.name == name)


def dropped(model: ModelProto) -> ModelProto:
    """Return the graph without its clip."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Identity"
            del node.input[1:]
    return result


def break_precisions(monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Let other precisions be made with other weights of a layer, or of all, unless it is kept in float."""
    original = making.other_precision

    def broken(model: ModelProto, precision: Any, *, reduced: bool, keep: Sequence[str]) -> ModelProto:  # noqa: ANN401
        result = onnx.ModelProto()
        result.CopyFrom(model)
        places = {"first": "w1", "second": "w2"}
        wrong = (
            [place for name, place in places.items() if name not in keep and name == layer] if layer else ["w1", "w2"]
        )
        for tensor in result.graph.initializer:
            if tensor.name in wrong:
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor)[::-1], tensor.name))
        return original(result, precision, reduced=reduced, keep=keep)

    monkeypatch.setattr(making, "other_precision", broken)
