"""The net under quantization: what is far, where, and which layers are guilty."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError, StageError
from pipeline.core.nearness import (
    MOST_DECIBELS,
    MOST_LAYERS,
    Answers,
    Seen,
    compare_classes,
    guilty_nodes,
    nearness_fault,
    noise_decibels,
)
from pipeline.core.stage import SilentProgress
from pipeline.data.arrays import image_classifier
from pipeline.onnx_graph.file import write_onnx
from pipeline.precision.nearness import Images, MadeFile, Net, ensure_near, images_of, words
from tests.feeds import fed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.nearness import OnFar
    from pipeline.core.stage import Context
    from pipeline.core.task import Task

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.standard_normal((200, 4)).astype(np.float32)
LABELS = LOGITS.argmax(axis=1)


def noisy(level: float) -> NDArray[np.float32]:
    """Return the logits with noise of this share of the signal in amplitude."""
    return (LOGITS + level * np.random.default_rng(1).standard_normal(LOGITS.shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (LOGITS, MOST_DECIBELS),
        (LOGITS * np.float32(1.1), 20.0),
        (LOGITS * 0, 0.0),
        (np.full_like(LOGITS, np.nan), -MOST_DECIBELS),
        (np.full_like(LOGITS, np.inf), -MOST_DECIBELS),
    ],
)
def test_decibels(found: NDArray[np.float32], expected: float) -> None:
    """Ten per cent of the amplitude are 20 dB; what is no number is all noise."""
    assert noise_decibels(LOGITS, found) == pytest.approx(expected, abs=1e-3)
    assert noise_decibels(LOGITS * 0, LOGITS * 0) == MOST_DECIBELS
    assert noise_decibels(LOGITS * 0, found + 1) == -MOST_DECIBELS


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (LOGITS, ""),
        (noisy(0.03), ""),
        (noisy(0.2), ""),
        (noisy(0.6), "4.6 dB of signal to noise where at least 10 are expected"),
        (LOGITS[::-1], "dB of signal to noise"),
        (np.full_like(LOGITS, 1.0), "outputs are the same for all 200 images"),
        (np.full_like(LOGITS, np.nan), "outputs are not finite"),
    ],
)
def test_what_is_far(found: NDArray[np.float32], said: str) -> None:
    """Noise that rounding explains is not."""
    answers = compare_classes([LOGITS], [found], LABELS)
    assert said in nearness_fault([LOGITS], [found], answers)
    assert bool(nearness_fault([LOGITS], [found], answers)) == bool(said)


def test_answers_that_have_nothing_to_do_with_each_other_are_far_however_small_the_noise() -> None:
    """A large part that all logits share hides what differs between them from the ratio alone."""
    reference = LOGITS + 100
    other = LOGITS[np.random.default_rng(2).permutation(200)] + 100
    assert noise_decibels(reference, other) > 30
    assert "answers agree on" in nearness_fault([reference], [other], compare_classes([reference], [other], LABELS))
    assert nearness_fault([reference], [reference], compare_classes([reference], [reference], LABELS)) == ""


def test_small_margins_are_not_far() -> None:
    """Neither where they are small for all classes, nor where the network knows nothing, nor with few images."""
    close = LOGITS * 0.05 + 1
    near = close + np.random.default_rng(3).normal(0, 0.015, LOGITS.shape).astype(np.float32)
    found = compare_classes([close], [near], LABELS)
    assert found is not None
    assert found.agreement < 0.9
    assert nearness_fault([close], [near], found) == ""
    other = LOGITS[::-1] + 100
    knows_nothing = np.random.default_rng(4).integers(0, 4, 200)
    found = compare_classes([LOGITS + 100], [other], knows_nothing)
    assert found is not None
    assert not found.far
    few = compare_classes([LOGITS[:4] + 100], [other[:4]], LABELS[:4])
    assert few is not None
    assert not few.far


def test_answers_decide_between_6_and_10_decibels() -> None:
    """A part that all logits of an image share is much noise and no other answer; below 6 dB nothing helps."""
    scale = float(np.sqrt(np.square(LOGITS).mean()))
    for factor, far in ((0.40, False), (0.55, True)):
        other = LOGITS + np.float32(factor * scale)
        answers = compare_classes([LOGITS], [other], LABELS)
        assert answers is not None
        assert answers.alike
        assert bool(nearness_fault([LOGITS], [other], answers)) is far
        assert nearness_fault([LOGITS], [other], None)


def test_outputs_that_differ_in_their_last_digit_are_equal() -> None:
    """A network at random whose images hardly matter gives the same numbers for all of them, rounded once more."""
    reference = np.float32(1) + np.float32(1e-7) * (np.arange(30) % 2 == 0)[:, None] * np.ones((1, 4), np.float32)
    assert nearness_fault([reference], [np.ones_like(reference)], None) == ""
    assert nearness_fault([reference + LOGITS[:30] * 1e-3], [np.ones_like(reference)], None).startswith(
        "outputs are the same"
    )


def test_outputs_of_other_tasks_have_no_answers() -> None:
    """A map is no list of logits, nor is a single number; the ratio still counts."""
    for shape in ((200, 2, 2), (200, 1)):
        reference = GENERATOR.standard_normal(shape)
        assert compare_classes([reference], [reference], LABELS) is None
        assert nearness_fault([reference], [-reference], None)


def data(train: int, validation: int) -> Dataset:
    """Return a data set whose images say which they are."""

    def split(count: int, start: int) -> Split:
        pixels = np.arange(start, start + count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
        return Split(pixels, np.arange(count) % 2)

    return Dataset(
        "numbers", ("a", "b"), Normalisation((0.0,), (1 / 255,)), split(train, 0), split(validation, 200), split(9, 240)
    )


@dataclass
class Asked:
    """What `images_of` asks of a context."""

    data: Dataset
    seed: int = 0

    def task(self) -> Task:
        """Return the task."""
        return image_classifier(self.data)

    def dataset(self) -> Dataset:
        """Return the data."""
        return self.data


@pytest.mark.parametrize(
    ("train", "validation", "calibrated", "expected"),
    [
        (40, 5, 30, {"calibration": 30, "held-out": 10}),
        (190, 5, 100, {"calibration": 64, "held-out": 64}),
        (40, 5, 40, {"calibration": 40, "held-out": 5}),
        (40, 0, 40, {"calibration": 40}),
        (40, 5, 0, {"held-out": 40}),
    ],
)
def test_images_are_calibrated_on_or_held_out(
    train: int, validation: int, calibrated: int, expected: dict[str, int]
) -> None:
    """Validation images stand in where all others are calibrated on; test images are never looked at."""
    context: Context = Asked(data(train, validation))  # type: ignore[assignment]
    found = {
        each.name: np.round(each.feeds["input"][:, 0, 0, 0]).astype(int) for each in images_of(context, calibrated)
    }
    assert {name: len(numbers) for name, numbers in found.items()} == expected
    seen = np.concatenate(list(found.values()))
    assert len(set(seen)) == len(seen)
    assert seen.max() < 240
    order = np.random.default_rng(0).permutation(train)
    assert set(found.get("calibration", [])) <= {*order[:calibrated]}
    assert all(number in {*order[calibrated:]} or number >= 200 for number in found.get("held-out", []))


@pytest.mark.parametrize("guilty", [{0}, {9}, {4}, {2, 3}, {0, 9}, {1, 4, 5, 8}, {0, 1, 2, 3, 4}])
@pytest.mark.parametrize("joined", [False, True])
def test_guilty_nodes_are_found_by_halving(guilty: set[int], joined: bool) -> None:  # noqa: FBT001
    """One alone in few trials, several one after the other, also when the file is near only without all of them."""
    nodes = [f"n{number}" for number in range(10)]
    names = {nodes[number] for number in guilty}
    trials = 0

    def is_near(in_float: tuple[str, ...]) -> bool:
        nonlocal trials
        trials += 1
        left = names - {*in_float}
        return len(left) < 2 if joined and len(names) > 1 else not left

    found = guilty_nodes(nodes, is_near)
    if len(guilty) > MOST_LAYERS and not joined:
        assert found is None
    else:
        assert found is not None
        assert {*found} <= names
        assert is_near(found)
    assert trials <= 5 * MOST_LAYERS + 1


def chain(scales: dict[str, float] | None = None) -> onnx.ModelProto:
    """Return x + 1 four times over, each in a node of its own, some of them with another number."""
    names = ("a", "b", "c", "d")
    nodes, before = [], "x"
    for name in names:
        nodes.append(helper.make_node("Add", [before, f"{name}.one"], [f"{name}.out"], name))
        before = f"{name}.out"
    numbers = {name: np.float32((scales or {}).get(name, 1.0)) for name in names}
    shapes = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in ("x", "d.out")]
    graph = helper.make_graph(
        nodes, "chain", shapes[:1], shapes[1:], [numpy_helper.from_array(v, f"{k}.one") for k, v in numbers.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@dataclass
class Wrong:
    """Makes files whose named nodes add another number unless they are in float."""

    file: Path
    wrong: dict[str, float]
    empty: bool = False
    made: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, in_float: tuple[str, ...]) -> MadeFile:
        """Write it."""
        self.made.append(in_float)
        write_onnx(chain({name: number for name, number in self.wrong.items() if name not in in_float}), self.file)
        return MadeFile(self.file, ("a", "b", "c", "d"), empty=self.empty and bool(in_float))


@pytest.fixture
def net(tmp_path: Path) -> Net:
    """Return a net under the chain."""
    write_onnx(chain(), tmp_path / "float.onnx")
    samples = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    images = [
        Images(name, fed(samples[place : place + 10], "x"), np.arange(10) % 3)
        for name, place in (("calibration", 0), ("held-out", 10))
    ]
    return Net(tmp_path / "float.onnx", images, "onnxruntime", 2)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_is_seen_in_the_session_that_ships_and_unoptimised(net: Net, tmp_path: Path, runtime: str) -> None:
    """On each kind of images; equal files are near."""
    net = replace(net, runtime=runtime)
    seen = net.see(net.given)
    assert [(each.session, each.images) for each in seen] == [
        (session, images) for session in (runtime, "onnxruntime unoptimised") for images in ("calibration", "held-out")
    ]
    assert all(each.decibels > 100 for each in seen)
    assert words(seen) == ""
    far = Wrong(tmp_path / "far.onnx", {"b": 9.0})(())
    assert net.fault(far.file).startswith("far from the float file: -")


def test_a_task_of_its_own_says_what_answers_are(net: Net) -> None:
    """Outputs may be near and answers far, as where boxes or masks follow from them by thresholds."""
    own = replace(net, task=lambda *given: Answers(agreement=len(given[2]) / 20, kappa=0.1, margin=0.1))
    assert own.fault(net.given).startswith("far from the float file: answers agree on 50% of the images")
    assert replace(net, task=lambda *_: None).fault(net.given) == ""


def test_it_says_where_only_one_session_is_far(net: Net) -> None:
    """As when the runtime's optimizer makes something else of the file."""
    near = Seen(images="held-out", count=9, session="onnxruntime unoptimised", decibels=40.0)
    far = near.model_copy(update={"session": "onnxruntime", "decibels": 3.0, "fault": "3.0 dB"})
    assert (
        words([near, far]) == "far from the float file: 3.0 dB on held-out images in onnxruntime (in no other session)"
    )
    assert words([far]) == "far from the float file: 3.0 dB on held-out images in onnxruntime"
    assert words([near]) == ""
    assert net.images


@pytest.mark.parametrize(
    ("wrong", "on_far", "decision", "in_float"),
    [
        ({}, "float", "near", ()),
        ({"b": 1.01}, "fail", "near", ()),
        ({"c": 20.0}, "keep", "kept", ()),
        ({"c": 20.0}, "float", "float", ("c",)),
        ({"a": 20.0, "d": -20.0}, "float", "float", ("a", "d")),
    ],
)
def test_a_far_file_goes_back_to_float_or_is_told(
    net: Net, tmp_path: Path, wrong: dict[str, float], on_far: OnFar, decision: str, in_float: tuple[str, ...]
) -> None:
    """What ships is what was seen last, and the record has it in words."""
    make = Wrong(tmp_path / "made.onnx", wrong)
    made, found = ensure_near(net, make, on_far, stage="quantize", progress=SilentProgress())
    assert (found.decision, found.in_float) == (decision, in_float)
    assert bool(found.text) == (decision != "near")
    assert make.made[-1] == in_float
    assert (found.decibels < 10) == (decision == "kept") == bool(net.fault(made.file))


@pytest.mark.parametrize(
    ("settings", "on_far", "says"),
    [
        ({}, "fail", "Write on_far: float to put guilty layers back into float"),
        ({"empty": True}, "float", "With the guilty layers in float, nothing is left in fewer bits"),
        (
            {"wrong": dict.fromkeys("abcd", 20.0), "nodes": ("a",)},
            "float",
            "Putting up to 4 layers back into float does not fix it",
        ),
    ],
)
def test_a_far_file_that_cannot_be_mended_fails(
    net: Net, tmp_path: Path, settings: dict[str, object], on_far: OnFar, says: str
) -> None:
    """With how far it is, and what to do."""
    make = Wrong(tmp_path / "made.onnx", settings.get("wrong", {"c": 20.0}), bool(settings.get("empty")))  # type: ignore[arg-type]
    few: Callable[[tuple[str, ...]], MadeFile] = lambda names: replace(make(names), nodes=settings["nodes"])  # type: ignore[arg-type] # noqa: E731
    with pytest.raises(
        StageError, match=rf"quantize: far from the float file: .* dB .* {says}.*on_far: keep"
    ) as caught:
        ensure_near(net, few if "nodes" in settings else make, on_far, stage="quantize", progress=SilentProgress())
    assert caught.value.exit_code == 3


def test_a_float_file_without_numbers_is_named(net: Net, tmp_path: Path) -> None:
    """Nothing can be near it."""
    write_onnx(chain({"a": float("nan")}), tmp_path / "float.onnx")
    with pytest.raises(StageError, match="the float network's outputs are not finite on calibration images"):
        net.see(net.given)


def test_a_file_that_the_runtime_cannot_run_is_an_input_error(net: Net, tmp_path: Path) -> None:
    """It is no question of nearness."""
    (tmp_path / "made.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="cannot read it"):
        net.see(tmp_path / "made.onnx")
