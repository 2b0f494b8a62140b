"""`engine: auto`: what the search is asked, and what is refused before anything is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import DeviceError, InputError, StageError
from pipeline.core.feeds import sample_count
from pipeline.core.stage import Context, Target
from pipeline.core.units import ScoreDrop
from pipeline.data.arrays import image_classifier
from pipeline.measure.devices.local import LocalDevice
from pipeline.onnx_graph.file import write_onnx
from pipeline.precision import planner
from pipeline.precision.config import QuantizationConfig
from pipeline.precision.planner import CANDIDATES, HELD_OUT, facts_of, find_precision, inexact_on_arm
from pipeline.precision.problem import SearchCandidate, SearchResult
from tests.unit.precision.search_fixtures import network, quantized

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.stage import Progress
    from pipeline.precision.evaluation import Evaluation
    from pipeline.precision.problem import SearchProblem
    from pipeline.results.precision import PrecisionPlan

NAMES = tuple(node.name for node in network().graph.node)


def split(images: int, seed: int) -> Split:
    """Return random images [N, 3, 8, 8]."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (images, 3, 8, 8), dtype=np.uint8)
    return Split(pixels, generator.integers(0, 4, images))


class Asked:
    """Stands for the search: remembers what it was asked and chooses the float file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.questions: list[SearchProblem] = []
        self.evaluations: list[Evaluation] = []

    def search(self, question: SearchProblem, evaluation: Evaluation, _: Progress) -> SearchResult:
        """Choose the float file."""
        self.questions.append(question)
        self.evaluations.append(evaluation)
        question.folder.mkdir()
        chosen = SearchCandidate("FP32", "fp32", file=question.given)
        return SearchResult(chosen, (chosen,), ())

    def find(
        self,
        model: ModelProto | None = None,
        *,
        train: int = 40,
        validation: int = 8,
        std: float = 0.25,
        target: Target | None = None,
        **settings: Any,  # noqa: ANN401 - of a recipe
    ) -> tuple[Path, PrecisionPlan]:
        """Find the precision of a graph with so many images."""
        file = self.folder / "given" / "model.onnx"
        write_onnx(model or network(), file)
        port = TensorSpec(name="input", shape=(1, 3, 8, 8))
        given = Artifact(form="onnx", folder=file.parent, digest="", inputs=(port,), outputs=(port,))
        norm = Normalisation((0.5,) * 3, (std,) * 3)
        data = Dataset("noise", tuple("abcd"), norm, split(train, 0), split(validation, 1), split(8, 2))
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        context = Context(
            folder=work, seed=0, target=target or Target(), original=given, task=lambda: image_classifier(data)
        )
        arm_exact = settings.pop("arm_exact", False)
        config = QuantizationConfig.model_validate({"images": 16, **settings})
        drop = ScoreDrop(0.5, "pt")
        return find_precision(config, given, context, score_drop=drop, budget_s=1.0, arm_exact=arm_exact)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Return what stands for the search."""
    found = Asked(tmp_path)
    monkeypatch.setattr(planner, "search", found.search)
    return found


def test_the_recipe_becomes_a_question(asked: Asked) -> None:
    """Scheme and kept nodes bind; noise is compared on images that nothing was calibrated on."""
    chosen, plan = asked.find(scheme="s8s8", keep=("stem",), symmetric=True, per_channel=False)
    (question,), (evaluation,) = asked.questions, asked.evaluations
    assert chosen == question.given
    assert (question.schemes, question.request.keep, question.budget_s) == (("s8s8",), ("stem",), 1.0)
    assert (question.request.symmetric, question.request.per_channel) == (True, False)
    assert sample_count(question.feeds) == 16
    (held_out,) = evaluation.held_out.values()
    assert len(held_out) == 24
    same = [(image == other).all() for image in question.feeds["input"] for other in held_out]
    assert not any(same)
    assert question.inexact_on_arm is None
    assert evaluation.device is None
    assert (plan.calibration_images, plan.validation_images, plan.winner.label) == (16, 8, "FP32")


def test_schemes_are_those_of_the_target(asked: Asked) -> None:
    """Unless the recipe names one."""
    asked.find()
    assert asked.questions[0].schemes == facts_of(None, "onnxruntime").schemes != ()
    assert facts_of(LocalDevice(), "onnxruntime") == facts_of(None, "onnxruntime")


def test_the_number_of_images_is_found(asked: Asked) -> None:
    """It is told how far the ranges moved."""
    _, plan = asked.find(images="auto", train=300)
    assert plan.calibration_moved
    assert plan.calibration_images == max(plan.calibration_moved)
    assert sample_count(asked.evaluations[0].held_out) == min(HELD_OUT, 300 - plan.calibration_images)


def test_without_other_training_images_noise_is_compared_on_those_there_are(asked: Asked) -> None:
    """Better than on validation images, which the accuracy is taken on."""
    asked.find(train=16)
    (held_out,) = asked.evaluations[0].held_out.values()
    np.testing.assert_array_equal(held_out, asked.questions[0].feeds["input"])


def test_sums_on_arm_are_asked_for(asked: Asked) -> None:
    """By what is known of the kernels of onnxruntime."""
    asked.find(arm_exact=True)
    question = asked.questions[0]
    assert question.inexact_on_arm is inexact_on_arm
    full, reduced = (quantized(scheme, "min-max", (), NAMES).model for scheme in ("u8s8", "u8s8-reduced"))
    assert inexact_on_arm(reduced) == ""
    assert inexact_on_arm(full).startswith("does not compute the same on ARM: stem: x86-64 without VNNI: ")


def test_what_a_killed_run_left_is_removed(asked: Asked) -> None:
    """Its candidates are not taken for those of this one."""
    left = asked.folder / "work" / CANDIDATES / "000.onnx"
    left.parent.mkdir(parents=True)
    left.write_text("half a file")
    asked.find()
    assert not left.exists()


@pytest.mark.parametrize("batch", [0, 4])
def test_files_of_any_batch_are_calibrated(asked: Asked, batch: int) -> None:
    """A dynamic one, and one of several images."""
    asked.find(network(batch=batch), target=Target(batch=4))
    assert len(asked.questions) == 1


def unfolded() -> ModelProto:
    """Return the network with a batch norm behind its first convolution."""
    model = onnx.ModelProto()
    model.CopyFrom(network())
    model.graph.node[1].input[0] = "normed"
    node = helper.make_node("BatchNormalization", ["a", "one", "one", "one", "one"], ["normed"], "norm")
    model.graph.node.insert(1, node)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(16, np.float32), "one"))
    return model


def infinite() -> ModelProto:
    """Return the network with a weight that makes infinities of finite images."""
    model = onnx.ModelProto()
    model.CopyFrom(network())
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 3, 5, 5), 3e38, np.float32), "w1"))
    return model


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": quantized("u8s8", "min-max", (), NAMES).model}, InputError, "quantized already"),
        ({"model": unfolded()}, StageError, "batch norm norm follows convolution stem"),
        ({"model": infinite()}, StageError, "not finite, first in a"),
        ({"std": 0.0}, InputError, "images hold values that are not finite"),
        ({"keep": ("stern",)}, InputError, '"stern" matches no node'),
        ({"train": 8}, InputError, "images is 16, the training split has 8"),
        ({"train": 0}, InputError, "images is 16, the training split has 0"),
        ({"train": 0, "images": "auto"}, InputError, "images is auto, the training split has 0"),
        ({"validation": 0}, InputError, "validation split, which is empty"),
        ({"target": Target(runtime="torch")}, InputError, "found target.runtime torch, allowed: onnxruntime, openvino"),
        ({"target": Target(device="ssh://nobody@127.0.0.1:1")}, DeviceError, "ssh"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered")
def test_what_no_engine_could_mend_is_one_error(
    asked: Asked, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Instead of a table of refusals and the float file."""
    with pytest.raises(error, match=message):
        asked.find(**settings)
    assert not asked.questions
