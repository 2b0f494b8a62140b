"""The quantize stage: scheme by CPU, calibration images, and what it reports."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx.numpy_helper import to_array
from pydantic import ValidationError

from pipeline.compress.quantization.engines import engine as interface
from pipeline.compress.quantization.engines import onnxruntime as engine
from pipeline.compress.quantization.engines.engine import missing_engine
from pipeline.compress.quantization.engines.registry import ENGINES, available
from pipeline.compress.quantization.names import Calibration, EngineName, Scheme
from pipeline.core.errors import InputError, StageError
from pipeline.core.stage import Target
from pipeline.onnx_graph.file import is_quantized, read_onnx
from pipeline.precision.planner import CANDIDATES
from pipeline.precision.request import training_images
from pipeline.recipe import chain_problems
from pipeline.results.precision import PrecisionPlan
from pipeline.stages.export import Export
from pipeline.stages.quantize import CALIBRATIONS, SIGNED_WEIGHTS, Quantize
from tests.defaults import asked
from tests.feeds import fed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.core.artifact import Artifact
    from pipeline.core.dataset import Dataset
    from pipeline.core.stage import Context, Outcome

    Run = Callable[..., tuple[Artifact, Outcome]]

ONNX = Export.model_validate({"kind": "export", "to": "onnx"})


def quantize(**settings: Any) -> Quantize:  # noqa: ANN401 (any setting of a recipe)
    """Return the stage as a recipe would, with the 40 images that the toy data has."""
    return Quantize.model_validate({"kind": "quantize", "images": 40, "scheme": "u8s8", **settings})


@pytest.mark.parametrize(
    ("flags", "scheme"),
    [
        ({"avx2", "avx512f", "avx512_vnni"}, "u8s8"),
        ({"avx2", "avx_vnni"}, "u8s8"),
        ({"avx2"}, "u8s8-reduced"),
        ({"fp", "asimd", "asimddp"}, "s8s8"),
        (set(), "u8s8-reduced"),
    ],
)
def test_auto_is_resolved_by_the_cpu(flags: set[str], scheme: str) -> None:
    """Full range needs VNNI; a scheme that is stated stays."""
    assert quantize(scheme="auto").resolved(frozenset(flags)).scheme == scheme
    assert quantize(scheme="u8u8").resolved(frozenset(flags)).scheme == "u8u8"


def test_the_same_sums_on_arm_need_weights_in_seven_bits() -> None:
    """Whatever the CPU; a scheme that is stated stays, and so does `auto` where the search decides."""
    flags = frozenset({"avx2", "avx512_vnni"})
    assert quantize(scheme="auto", arm_exact=True).resolved(flags).scheme == "u8s8-reduced"
    assert quantize(scheme="u8s8", arm_exact=True).resolved(flags).scheme == "u8s8"
    assert quantize(scheme="auto", engine="auto").resolved(flags).scheme == "auto"


@pytest.mark.parametrize(
    "settings",
    [
        {"scheme": "int4"},
        {"images": 0},
        {"images": "many"},
        {"percentile": 10},
        {"engine": "tensorrt"},
        {"recover": ["x"]},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    """Unknown names and numbers out of range."""
    with pytest.raises(ValidationError):
        quantize(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"engine": "auto", "recover": ["bias"]},
            'recover is "bias", which engine auto chooses itself: remove recover',
        ),
        ({"engine": "auto", "precision": "fp16"}, 'precision is "fp16", which engine auto chooses itself'),
        (
            {"engine": "neural-compressor", "calibration": "percentile"},
            'calibration is "percentile", allowed with engine neural-compressor: min-max, mse',
        ),
        (
            {"engine": "nncf", "calibration": "entropy"},
            'calibration is "entropy", allowed with engine nncf: min-max, percentile, mse',
        ),
        (
            {"engine": "nncf", "scheme": "u8u8"},
            'scheme is "u8u8", allowed with engine nncf: auto, u8s8, u8s8-reduced, s8s8',
        ),
        ({"engine": "nncf", "precision": "fp16"}, 'engine is "nncf", which makes int8: remove engine'),
        ({"precision": "fp16", "recover": ["bias", "adaround"]}, 'recover is "bias, adaround", which precision fp16'),
        ({"precision": "int8-dynamic", "arm_exact": True}, 'arm_exact is "true", which precision int8-dynamic'),
        ({"engine": "auto", "on_far": "keep"}, 'on_far is "keep", which engine auto chooses itself: remove on_far'),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    """With what is allowed, before anything runs."""
    with pytest.raises(ValidationError, match=message):
        quantize(**settings)


@pytest.mark.parametrize(
    ("engine", "calibration"),
    [("onnxruntime", "percentile"), ("auto", "percentile"), ("nncf", "percentile"), ("neural-compressor", "min-max")],
)
def test_the_usual_calibration_is_one_that_the_engine_has(engine: str, calibration: str) -> None:
    """Also in a recipe, whose lists become tuples, and when the configuration is read again."""
    text = json.dumps({"kind": "quantize", "engine": engine, "keep": ["fc"]})
    stage = Quantize.model_validate_json(text, strict=True)
    assert (stage.calibration, stage.keep) == (calibration, ("fc",))
    assert Quantize.model_validate(stage.model_dump()) == stage
    assert quantize(engine=engine, calibration="mse").calibration == "mse"


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_what_an_engine_allows_is_what_it_does(name: EngineName) -> None:
    """The stage has a list of its own, since the engines are heavy to load."""
    image = np.zeros((1, 1, 8, 8), np.float32)
    for method, scheme in product(get_args(Calibration), get_args(Scheme)):
        allowed = method in CALIBRATIONS[name] and scheme in SIGNED_WEIGHTS
        # An empty graph gets as far as the check of its opset.
        with pytest.raises(InputError, match="opset" if allowed else "possible are"):
            ENGINES[name]().quantize(ModelProto(), fed(image), asked(scheme, calibration=method))


def test_a_file_that_was_searched_for_depends_on_where_it_was_timed() -> None:
    """And on every engine that is installed; another file on what made it."""
    assert quantize(engine="auto").measures
    assert quantize(on_no_gain="skip").measures
    assert not quantize(engine="nncf").measures
    assert quantize().depends_on() == Quantize.libraries
    assert set(quantize(recover=["bias"]).depends_on()) - {*Quantize.libraries} == {"torch"}
    there = {ENGINES[name]().package for name in available()}
    found = set(quantize(engine="auto").depends_on())
    assert found >= {*Quantize.libraries, "openvino", "torch", *there}
    assert found & {"nncf", "neural-compressor"} == there - {"onnxruntime"}
    for name in ("nncf", "neural-compressor"):
        assert (name in quantize(engine=name).depends_on()) == (name in available())


def test_a_float_file_becomes_int8_and_runs_in_openvino(
    run_stage: Run,
    onnx_artifact: Artifact,
) -> None:
    """What was quantized is counted, what was not is named; parity is reported in both runtimes, and not judged."""
    int8, outcome = run_stage(quantize(), onnx_artifact, "int8")
    assert is_quantized(read_onnx(int8.file))
    assert outcome.changed["scheme"] == "u8s8"
    assert outcome.changed["quantized_nodes"] == {"Add": 1, "Conv": 2, "Gemm": 1}
    assert outcome.changed["float_nodes"] == ["ReduceMean"]
    assert outcome.changed["parity"]["images"] == 40
    assert 1e-4 < outcome.changed["parity"]["max_rel_to_scale"] < 0.1
    export = Export.model_validate({"kind": "export", "to": "openvino"})
    ir, exported = run_stage(export, int8, "openvino")
    assert ir.inputs == int8.inputs
    assert exported.changed["parity"]["argmax_agreement"] > 0.8


def test_the_same_seed_gives_the_same_file(run_stage: Run, onnx_artifact: Artifact) -> None:
    """Another seed draws other images."""
    files = [
        run_stage(quantize(images=10), onnx_artifact, name, seed=seed)[0].digest
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert files[0] == files[1] != files[2]


def test_only_training_images_are_used(make_context: Callable[..., Context], noise_data: Dataset) -> None:
    """Each of them once when all are asked for."""
    samples = training_images(make_context("stage"), 40)["input"]
    expected = noise_data.normalisation(noise_data.train.images)
    assert sorted(image.tobytes() for image in samples) == sorted(image.tobytes() for image in expected)


@pytest.mark.parametrize("name", get_args(EngineName))
def test_every_engine_makes_the_file(run_stage: Run, onnx_artifact: Artifact, name: EngineName) -> None:
    """With the settings that a recipe has when it says no more."""
    command = missing_engine(ENGINES[name]())
    if command is not None:
        pytest.skip(f"{name} is not installed: {command}")
    stage = Quantize.model_validate({"kind": "quantize", "engine": name, "images": 16, "scheme": "u8s8"})
    int8, outcome = run_stage(stage, onnx_artifact, "int8")
    assert is_quantized(read_onnx(int8.file))
    assert outcome.changed["quantized_nodes"] == {"Add": 1, "Conv": 2, "Gemm": 1}
    assert outcome.changed["parity"]["max_rel_to_scale"] < 0.1


def test_an_engine_that_is_not_installed_is_an_input_error(
    run_stage: Run, onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line ends with 2 and says what to install."""
    monkeypatch.setattr(interface, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"not installed: pip install 'secateur\[nncf\]'") as caught:
        run_stage(quantize(engine="nncf"), onnx_artifact, "int8")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("precision", ["int8-dynamic", "int4-weights", "fp16-weights", "fp16"])
def test_other_precisions_are_made_without_calibration(run_stage: Run, onnx_artifact: Artifact, precision: str) -> None:
    """More than is there may be asked for."""
    made, outcome = run_stage(quantize(precision=precision, images=1000, scheme="auto"), onnx_artifact, "other")
    assert outcome.changed["precision"] == precision
    assert 1e-6 < outcome.changed["parity"]["max_rel_to_scale"] < 0.1
    assert is_quantized(read_onnx(made.file)) == (precision == "int8-dynamic")


def test_dynamic_weights_have_as_many_bits_as_the_scheme(run_stage: Run, onnx_artifact: Artifact) -> None:
    """Seven where sums saturate: that is what `auto` becomes on such a CPU."""
    largest = []
    for scheme in ("u8s8-reduced", "u8s8"):
        made, _ = run_stage(quantize(precision="int8-dynamic", scheme=scheme), onnx_artifact, scheme)
        weights = [
            to_array(each) for each in read_onnx(made.file).graph.initializer if each.data_type == TensorProto.INT8
        ]
        largest.append(max(int(np.abs(each.astype(int)).max()) for each in weights))
    assert largest[0] <= 64 < largest[1]


def test_a_precision_that_suits_nothing_is_an_input_error(run_stage: Run, onnx_artifact: Artifact) -> None:
    """The one linear layer of 24 weights would become larger."""
    with pytest.raises(InputError, match="found no matrix product"):
        run_stage(quantize(precision="int8-weights"), onnx_artifact, "other")


@pytest.mark.parametrize("recover", [("bias",), ("equalize", "bias"), ("adaround", "bias")])
def test_recovery_changes_numbers_and_no_layer(
    run_stage: Run, onnx_artifact: Artifact, recover: tuple[str, ...]
) -> None:
    """The file has the same nodes and other bytes; here no two layers follow each other as equalization needs it."""
    plain, _ = run_stage(quantize(), onnx_artifact, "plain")
    if "equalize" in recover:
        with pytest.raises(InputError, match="nothing to equalize"):
            run_stage(quantize(recover=recover), onnx_artifact, "recovered")
        return
    recovered, outcome = run_stage(quantize(recover=recover), onnx_artifact, "recovered")
    graphs = [read_onnx(each.file).graph for each in (plain, recovered)]
    assert [node.name for node in graphs[0].node] == [node.name for node in graphs[1].node]
    assert plain.digest != recovered.digest
    assert outcome.changed["parity"]["max_rel_to_scale"] < 0.1


def test_the_same_sums_on_arm_are_proven_from_the_file(run_stage: Run, onnx_artifact: Artifact) -> None:
    """Weights in seven bits pass; those of the full range fail and the message says what to do."""
    passed, outcome = run_stage(quantize(scheme="auto", arm_exact=True), onnx_artifact, "reduced")
    assert outcome.changed["scheme"] == "u8s8-reduced"
    assert is_quantized(read_onnx(passed.file))
    with pytest.raises(StageError, match=r"arm_exact: the file does not compute the same .* Use scheme u8s8-reduced"):
        run_stage(quantize(scheme="u8s8", arm_exact=True), onnx_artifact, "full")


def test_the_number_of_images_is_found(run_stage: Run, onnx_artifact: Artifact) -> None:
    """It ends with all that there are, or where ranges no longer move."""
    _, outcome = run_stage(quantize(images="auto"), onnx_artifact, "int8")
    assert outcome.changed["calibration_images"] == 40
    assert list(outcome.changed["ranges_moved"]) == [40]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_search_ships_one_of_what_it_tried(
    make_context: Callable[..., Context], onnx_artifact: Artifact, runtime: str
) -> None:
    """From engines to timings, with what a killed run has left in the way; on a network that is too small to gain."""
    context = replace(make_context("auto"), target=Target(runtime=runtime))
    left = context.folder / CANDIDATES / "000.onnx"
    left.parent.mkdir()
    left.write_text("half a file")
    stage = quantize(engine="auto", scheme="auto", images=16, budget="1s", accuracy_drop="100pt")
    outcome = stage.run(onnx_artifact, context)
    plan = PrecisionPlan.model_validate_json(json.dumps(outcome.changed["plan"]))
    assert [path.name for path in context.folder.iterdir()] == ["model.onnx"]
    shipped = context.folder / "model.onnx"
    assert is_quantized(read_onnx(shipped)) == (plan.winner.precision != "fp32")
    assert shipped.stat().st_size == plan.winner.size_bytes
    assert (plan.runtime, plan.calibration_images, plan.validation_images) == (runtime, 16, 8)
    assert {row.engine for row in plan.candidates if row.engine} == set(available())
    assert all(row.reason for row in plan.candidates)
    assert outcome.changed["parity"]["images"] == 40
    assert (outcome.inputs, outcome.outputs) == (onnx_artifact.inputs, onnx_artifact.outputs)


def test_a_quantized_file_is_refused_by_the_search(run_stage: Run, onnx_artifact: Artifact) -> None:
    """It is no float file that could ship instead."""
    int8, _ = run_stage(quantize(), onnx_artifact, "int8")
    with pytest.raises(InputError, match="quantized already"):
        run_stage(quantize(engine="auto"), int8, "again")


#: What another precision can be made of, as the graphs say: of weights in blocks and of halved ones others can be made.
OPEN = {
    ("int8", "int8-weights"),  # of products that are left in float
    ("int8", "int4-weights"),
    ("int8", "fp16-weights"),  # such as those of embeddings
    ("int8-dynamic", "fp16-weights"),
    ("int8-weights", "int8"),
    ("int4-weights", "fp16"),
    ("fp16-weights", "int8"),
}


@pytest.mark.parametrize(("first", "second"), sorted(OPEN))
def test_precisions_that_go_together_are_a_chain(first: str, second: str) -> None:
    """A recipe is not refused for what some networks can have."""
    assert not list(chain_problems([ONNX, quantize(precision=first), quantize(precision=second)]))


@pytest.mark.parametrize("first", ["int8", "int8-dynamic", "fp16"])
@pytest.mark.parametrize("second", ["int8", "int8-dynamic", "fp16"])
def test_a_quantized_file_is_refused_before_anything_runs(
    run_stage: Run, onnx_artifact: Artifact, first: str, second: str
) -> None:
    """By the recipe, with the stage that made it; and the stage itself would not start from it."""
    stages = [ONNX, quantize(precision=first), quantize(precision=second)]
    ((index, key, message),) = chain_problems(stages)
    assert (index, key) == (2, "kind")
    assert f"cannot start from one in {first}, which quantize (stages.1) makes: remove one" in message
    if second == "fp16" and first == "int8":
        made, _ = run_stage(stages[1], onnx_artifact, "first")
        with pytest.raises(InputError, match="float"):
            run_stage(stages[2], made, "second")


def test_more_images_than_there_are_is_an_input_error(run_stage: Run, onnx_artifact: Artifact) -> None:
    """The message states both numbers."""
    with pytest.raises(InputError, match="images is 128, the training split has 40"):
        run_stage(quantize(images=128), onnx_artifact, "int8")


def test_a_network_that_dies_in_int8_fails(
    run_stage: Run,
    onnx_artifact: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When all images get the same output, the file is of no use whatever the tolerance."""
    monkeypatch.setattr(engine, "remembered_ranges", lambda model, *_: dict.fromkeys(names(model), (0.0, 1e6)))
    with pytest.raises(StageError, match="the same for all 40 images"):
        run_stage(quantize(), onnx_artifact, "int8")


def names(model: Any) -> list[str]:  # noqa: ANN401 (onnx has no types)
    """Return the names of all activations."""
    return [model.graph.input[0].name, *(value for node in model.graph.node for value in node.output)]
