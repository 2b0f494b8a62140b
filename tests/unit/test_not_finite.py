"""NaN and infinity pass no comparison, are no class, and stand in no JSON that is written."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.analysis.probes import Probe, watch
from pipeline.bundle.on_device import self_test
from pipeline.bundle.on_device.verify import Verification, as_json
from pipeline.compress.pruning import certificate
from pipeline.core.errors import OutputsError, StageError
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.store import Store
from pipeline.data.arrays import image_classifier
from pipeline.export.parity import check_parity, first_difference, output_differences
from pipeline.measure.outputs import compare_outputs
from pipeline.precision.same_bits import compared
from pipeline.results.measurement import OutputCheck
from pipeline.results.run import Interval
from pipeline.run.evaluator import Evaluator
from tests.unit.compress.training.test_training import DATA, ignore, training
from tests.unit.measure.test_outputs import told
from tests.unit.precision.test_same_bits import output
from tests.unit.run.test_evaluator import network

NAN, INF = float("nan"), float("inf")
BAD = [NAN, INF, -INF]
PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"
#: Texts of messages and pages, which show what somebody wrote: not JSON for a program.
SHOWN = {"core/units.py", "recipe/problems.py", "report/run/facts.py"}


def array(*numbers: float) -> Any:  # noqa: ANN401 - an array of one row
    """Return numbers as one image's outputs."""
    return np.array([numbers], np.float32)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", [0, 1])
def test_parity_fails_in_any_output(value: float, place: int) -> None:
    """A reference that is not finite equals nothing, whichever output it is in: max() drops a NaN that comes second."""
    reference = [array(1, 2), array(3, 4)]
    broken = list(reference)
    broken[place] = array(1, value)
    with pytest.raises(StageError, match=r"differ by inf of their scale"):
        check_parity(broken, reference, tolerance=1e9, locate=lambda: None)
    with pytest.raises(StageError, match=r"not finite"):
        output_differences(reference, broken)
    found = first_difference({"layer": array(1, 2)}, {"layer": array(1, value)}, tolerance=1e9)
    assert found is not None


@pytest.mark.parametrize("place", [0, 1])
def test_a_certificate_has_no_largest_difference_of_nan(place: int) -> None:
    """The largest of several outputs is NaN where one has it."""
    tensors = [torch.ones(2), torch.ones(2)]
    tensors[place][1] = NAN
    assert not certificate._largest(tensors) <= 1.0
    assert certificate._largest([torch.ones(0)]) == 0.0


@pytest.mark.parametrize("value", BAD)
def test_outputs_that_are_not_finite_are_beyond_every_tolerance(value: float) -> None:
    """What a worker tells without having noticed it is refused as well."""
    sound = told([1.0, 2.0])
    broken = told([1.0, value])
    for first, second in ((sound, broken), (broken, sound)):
        for each in first["outputs"]:
            each["largest"] = 2.0
        with pytest.raises((OutputsError, ValueError)):
            compare_outputs("a", first, "b", second, 1e9)


@pytest.mark.parametrize("value", BAD)
def test_bits_that_differ_by_nan_are_the_largest_difference(value: float) -> None:
    """It stands in no JSON."""
    found = compared("here", "there", [[output(1, 2)], [output(1, 2)]], [[output(1, value)], [output(1, 3)]])
    assert found.largest == INF
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["largest"] is None


@pytest.mark.parametrize("value", BAD)
def test_noise_that_is_not_finite_is_no_equality(value: float) -> None:
    """Signal over NaN is not the ceiling, which stands for equal outputs; what both have is no noise."""
    probe = Probe(layer="fc", raw="y", after="y", reference="y", quantizer=None, axis=None)
    good, broken = array(1, 2), array(1, value)
    assert watch([probe], [{"y": broken}], [{"y": good}])["fc"].sqnr_db == -150.0
    assert watch([probe], [{"y": broken}], [{"y": broken}])["fc"].sqnr_db == 150.0


@pytest.mark.parametrize("value", [*BAD, "nan", "1.0", True, None, [1.0]])
@pytest.mark.parametrize("where", ["outputs", "tolerance"])
def test_expected_outputs_are_finite_numbers(value: object, where: str) -> None:
    """Text that float() would take, such as "nan", is refused before anything is compared."""
    content: dict[str, Any] = {
        "samples": [{"file": "0.png", "outputs": {"onnxruntime": [1.0, 2.0]}}],
        "tolerance": {"onnxruntime": {"max_abs": 0.1}},
        "exact": {"onnxruntime": False},
    }
    manifest = {"files": ["0.png"]}
    assert self_test.read_expected(content, manifest, "onnxruntime")[1] == 0.1
    if where == "outputs":
        content["samples"][0]["outputs"]["onnxruntime"][1] = value
    else:
        content["tolerance"]["onnxruntime"]["max_abs"] = value
    with pytest.raises(self_test.Failed, match=r"expected\.json"):
        self_test.read_expected(content, manifest, "onnxruntime")


@pytest.mark.parametrize("value", [*BAD, "nan", None])
@pytest.mark.parametrize("side", ["expected", "computed"])
def test_a_sample_never_equals_nan(value: Any, side: str) -> None:  # noqa: ANN401
    """Whichever side has it; a device may also send text."""
    sides: dict[str, Any] = {"expected": [1.0, 2.0], "computed": [1.0, 2.0]}
    assert self_test.difference("0.png", **sides) == 0
    sides[side] = [1.0, value]
    with pytest.raises(self_test.Failed, match=r"not finite"):
        self_test.difference("0.png", **sides)


def test_json_of_a_verification_has_null() -> None:
    """Python's NaN is no JSON: other programs cannot read it."""
    text = as_json(Verification(outputs={"0.png": [1.0, *BAD]}))
    assert json.loads(text, parse_constant=pytest.fail)["outputs"]["0.png"] == [1.0, None, None, None]


@pytest.mark.parametrize("value", BAD)
def test_no_value_type_takes_it(value: float) -> None:
    """Results are read back by these types; what is not known is absent."""
    for make in (
        lambda: Interval(value=value, low=0.0, high=1.0),
        lambda: OutputCheck(max_abs=0.0, relative=value, cosine=1.0),
    ):
        with pytest.raises(ValueError, match=r"finite number"):
            make()


def test_every_json_that_is_written_refuses_it() -> None:
    """Each call of json.dumps says so, apart from texts of messages."""
    silent = [
        f"{file.relative_to(PIPELINE)}:{node.lineno}"
        for file in sorted(PIPELINE.rglob("*.py"))
        if str(file.relative_to(PIPELINE)) not in SHOWN
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"json.dumps", "json.dump"}
        and not any(each.arg == "allow_nan" and not ast.literal_eval(each.value) for each in node.keywords)
    ]
    assert silent == []


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_weights_that_left_all_numbers_end_a_training(ema: float) -> None:
    """The loss of the only step is that of the first weights; what the step made is found on the validation images."""
    run = training(learning_rate=1e30, batch=96, epochs=1, ema=ema, warmup=0.0, recalibration_images=0)
    with pytest.raises(StageError, match=r"diverged: after epoch 1, step 1, .*Lower learning_rate \(now 1e\+30\)"):
        run.run_epoch(ignore)


def test_a_network_that_is_broken_from_the_start_is_said_to_be() -> None:
    """No advice about the learning rate where nothing was trained."""
    run = training()
    with torch.no_grad():
        next(run.model.parameters()).fill_(NAN)
    with pytest.raises(StageError, match=r"before any training"):
        run.judge_start()


@pytest.mark.parametrize("weight", [1.0, -INF], ids=["infinite", "nan"])
def test_logits_that_are_not_finite_are_no_class(tmp_path: Path, weight: float) -> None:
    """Argmax calls NaN class 0, which is right for every image of that class."""
    artifact = network(tmp_path, 8)
    file = artifact.folder / "weights.safetensors"
    weights = load_file(file)
    weights["3.bias"][0], weights["3.weight"][0] = INF, weight
    save_file(weights, file)
    evaluator = Evaluator(
        store=Store(tmp_path / "store"),
        task=lambda: image_classifier(DATA),
        data_identity={},
        target=Target(batch=40),
        threads=1,
        progress=SilentProgress(),
    )
    with pytest.raises(StageError, match="40 of the images"):
        evaluator.evaluate(artifact)
