"""The quantize-aware-finetune stage: an int8 file that is what was trained, resumable, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.compress.quantization.weighted import weighted_layers
from pipeline.compress.training.training import EpochResult, TrainingRun
from pipeline.core.errors import InputError, StageError
from pipeline.data.arrays import image_classifier
from pipeline.network.definition import build_network
from pipeline.network.stored import load_network, write_original
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import is_quantized, read_onnx
from pipeline.stages.export import Export
from pipeline.stages.quantize_aware import QuantizeAwareFinetune
from pipeline.stages.quantize_aware import training as quantization_training
from tests.feeds import fed
from tests.unit.stages.stops import Stops

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.core.artifact import Artifact
    from pipeline.core.dataset import Dataset
    from pipeline.core.stage import Context, Outcome, SilentProgress

    Run = Callable[..., tuple[Artifact, Outcome]]
    Make = Callable[..., Context]

PAYLOAD = ["model.onnx"]


def stage(**settings: Any) -> QuantizeAwareFinetune:  # noqa: ANN401 - any setting of a recipe
    """Return the stage with a short training on the toy data."""
    return QuantizeAwareFinetune.model_validate(
        {"kind": "quantize-aware-finetune", "epochs": 2, "batch": 8, "images": 16, "scheme": "u8s8"}
        | {"optimizer": "sgd", "learning_rate": 0.01, "warmup": 0, **settings}
    )


def files(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_network_becomes_an_int8_file(run_stage: Run, network: Artifact) -> None:
    """Nothing else is left in the folder; what was done is told."""
    artifact, outcome = run_stage(stage(), network, "int8")
    assert files(artifact.folder) == PAYLOAD
    assert is_quantized(read_onnx(artifact.file))
    assert [spec.name for spec in (*artifact.inputs, *artifact.outputs)] == ["input", "scores"]
    assert artifact.inputs[0].shape == (1, 1, 8, 8)
    told = json.loads(json.dumps(outcome.changed))
    assert told["scheme"] == "u8s8"
    assert told["quantized_nodes"] == {"Add": 1, "Conv": 2, "Gemm": 1}
    assert told["float_nodes"] == ["ReduceMean"]
    assert told["calibration_images"] == 16
    assert [epoch["epoch"] for epoch in told["history"]] == [1, 2]
    assert told["simulation"]["decibels"] is None or told["simulation"]["decibels"] > 60
    assert told["simulation"]["images"] == 16


def test_training_that_makes_it_worse_is_not_kept(
    run_stage: Run, network: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calibrated network is epoch 0, and its file ships as without training."""
    alone, _ = run_stage(stage(epochs=0), network, "alone")
    good = EpochResult(0, float("nan"), score=1.0, validation_loss=0.0)
    monkeypatch.setattr(TrainingRun, "judge_start", lambda self: (setattr(self, "start", good), self._keep(self.model)))
    worse, outcome = run_stage(stage(epochs=1), network, "worse")
    assert (outcome.changed["best_epoch"], outcome.changed["calibrated_accuracy"]) == (0, 1.0)
    assert worse.digest == alone.digest


def test_the_calibrated_network_is_judged_as_an_epoch_is(run_stage: Run, network: Artifact) -> None:
    """A learning rate of next to nothing leaves its accuracy where it was."""
    _, outcome = run_stage(stage(epochs=1, learning_rate=1e-9), network, "still")
    assert outcome.changed["history"][0]["validation_accuracy"] == outcome.changed["calibrated_accuracy"]


def test_no_epochs_is_quantization_alone(run_stage: Run, network: Artifact) -> None:
    """The file computes about what the network does."""
    artifact, outcome = run_stage(stage(epochs=0), network, "int8")
    assert outcome.changed["history"] == []
    images = np.random.default_rng(0).standard_normal((8, 1, 8, 8), dtype=np.float32)
    expected = load_network(network)(torch.from_numpy(images)).detach().numpy()
    found = onnx_outputs(artifact.file, fed(images))[0]
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    "settings",
    [
        {"scheme": "s8s8", "symmetric": True},
        {"scheme": "u8u8", "per_channel": False},
        {"scheme": "u8s8-reduced", "calibration": "mse"},
        {"scheme": "auto", "images": "auto"},
        {"keep": ["stem"]},
        {"freeze_observers": 0, "freeze_norms": 1},
        {"freeze_observers": 1, "freeze_norms": 0},
        {"ema": 0.9},
        {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
        {"distill": {"from": "original", "alpha": 1.0}},
        {"augment": {"flip_horizontal": True, "mixup": 0.2}},
    ],
    ids=str,
)
def test_settings_of_both_kinds_work_together(run_stage: Run, network: Artifact, settings: dict[str, Any]) -> None:
    """And each ends with the file that was trained."""
    artifact, outcome = run_stage(stage(**settings), network, "int8")
    assert outcome.changed["simulation"]["decibels"] is None or outcome.changed["simulation"]["decibels"] > 40
    assert ("stem" in outcome.changed["float_nodes"]) == ("keep" in settings)
    assert files(artifact.folder) == PAYLOAD


def test_kept_nodes_are_held_in_float(run_stage: Run, network: Artifact) -> None:
    """A convolution between quantized neighbours would be quantized by onnxruntime if nothing stood in front of it."""
    artifact, outcome = run_stage(stage(epochs=0, keep=["conv"]), network, "kept")
    held = [node for node in read_onnx(artifact.file).graph.node if node.op_type == "LeakyRelu"]
    assert outcome.changed["quantized_nodes"]["Conv"] == 1
    assert [node.name for node in held] == ["conv.float"]
    assert all(attribute.f == 1 for node in held for attribute in node.attribute)


def test_a_batch_of_the_target_and_openvino(run_stage: Run, network: Artifact) -> None:
    """The file has the target's batch, whatever the training's is, and both runtimes agree on it."""
    int8, _ = run_stage(stage(), network, "int8", batch=3)
    assert int8.inputs[0].shape == (3, 1, 8, 8)
    _, exported = run_stage(Export.model_validate({"kind": "export", "to": "openvino"}), int8, "openvino", batch=3)
    assert exported.changed["parity"]["argmax_agreement"] > 0.8


@pytest.mark.parametrize("settings", [{}, {"ema": 0.5}, {"freeze_observers": 0.34, "freeze_norms": 0.67}], ids=str)
def test_a_killed_training_ends_with_the_same_bytes(make_context: Make, network: Artifact, settings: Any) -> None:  # noqa: ANN401
    """Ranges and statistics go on from where they were, and freeze when they would have."""
    one = stage(epochs=3, **settings)
    whole, killed = make_context("whole"), make_context("killed")
    outcome = one.run(network, whole)
    with pytest.raises(KeyboardInterrupt):
        one.run(network, replaced(killed, Stops(8)))  # an epoch has five steps
    assert (killed.folder / "training.pt").exists()
    last = Stops(1000)
    assert one.run(network, replaced(killed, last)).changed == outcome.changed
    assert last.notes == ["resumed after epoch 1 of 3"]
    assert files(killed.folder) == files(whole.folder) == PAYLOAD
    assert (killed.folder / "model.onnx").read_bytes() == (whole.folder / "model.onnx").read_bytes()


def replaced(context: Context, progress: SilentProgress) -> Context:
    """Return the context with another progress."""
    return type(context)(**{**vars(context), "progress": progress})


def test_the_seed_decides(run_stage: Run, network: Artifact) -> None:
    """The same one gives the same file."""
    digests = [run_stage(stage(), network, name, seed=seed)[0].digest for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert digests[0] == digests[1] != digests[2]


def test_ranges_and_norms_are_frozen_when_told(
    make_context: Make, network: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the stated share of the epochs, rounded up."""
    told: list[tuple[bool, bool]] = []
    begin = quantization_training.FreezeLate.begin_epoch

    def watched(self: Any, model: Any) -> None:  # noqa: ANN401 - the method's own
        begin(self, model)
        told.append((model.observing, model.normalising))

    monkeypatch.setattr(quantization_training.FreezeLate, "begin_epoch", watched)
    stage(epochs=4, freeze_observers=0.6, freeze_norms=0.25).run(network, make_context("int8"))
    assert told == [(True, True), (True, False), (True, False), (False, False)]


@pytest.mark.parametrize("keep_zeros", [True, False])
def test_a_mask_survives(run_stage: Run, network: Artifact, tmp_path: Path, keep_zeros: bool) -> None:  # noqa: FBT001
    """Weights that are zero before are zero in the file, unless that is not asked for."""
    pruned: Any = load_network(network)
    with torch.no_grad():
        pruned.conv.weight[:, ::2] = 0
        pruned.stem.weight[3] = 0
    (tmp_path / "masked").mkdir()
    arguments = {"classes": 3}
    write_original(tmp_path / "masked", pruned, tmp_path / "model.py", arguments)
    given = network.model_copy(update={"folder": tmp_path / "masked"})
    artifact, _ = run_stage(stage(keep_zeros=keep_zeros, learning_rate=0.1), given, "int8")
    layers = weighted_layers(read_onnx(artifact.file))
    zeros = [layers["conv"].weight.integers[:, ::2], layers["stem"].weight.integers[3]]
    assert any(part.any() for part in zeros) != keep_zeros


def test_training_lowers_the_loss_of_the_file(make_context: Make, network: Artifact, noise_data: Dataset) -> None:
    """On images whose brightness tells their labels."""
    split = noise_data.train
    marked = split.images // 4 + (70 * split.labels)[:, None, None, None].astype(np.uint8)
    data = type(noise_data)(**{**vars(noise_data), "train": type(split)(marked, split.labels)})
    context = make_context("int8")
    context = type(context)(**{**vars(context), "task": lambda: image_classifier(data)})
    history = stage(epochs=8, learning_rate=0.05).run(network, context).changed["history"]
    assert history[-1]["training_loss"] < 0.6 * history[0]["training_loss"]


def test_more_images_than_there_are_is_an_input_error(run_stage: Run, network: Artifact) -> None:
    """With both numbers."""
    with pytest.raises(InputError, match="images is 128, the training split has 40"):
        run_stage(stage(images=128), network, "int8")


def test_a_file_that_is_not_what_was_trained_fails(
    run_stage: Run, network: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the weights had been written before the training."""
    monkeypatch.setattr(quantization_training.QuantizationAware, "forward", wrong)
    with pytest.raises(StageError, match=r"the file's outputs are -?\d+ dB from those of the trained simulation"):
        run_stage(stage(epochs=0), network, "int8")


def wrong(self: Any, images: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - the module
    """Return something else than the network computes."""
    return torch.randn(len(images), 3, generator=torch.Generator().manual_seed(len(self.steps)))


def test_a_diverging_training_fails(run_stage: Run, network: Artifact) -> None:
    """With what to change."""
    with pytest.raises(StageError, match=r"training diverged: .* Lower learning_rate"):
        run_stage(stage(learning_rate=1e30), network, "int8")


def test_an_operator_without_counterpart_is_an_input_error(run_stage: Run, network: Artifact, tmp_path: Path) -> None:
    """Named, with those that have one."""
    (tmp_path / "other.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, 4, 3)\n        self.fc = nn.Linear(4, 3)\n"
        "    def forward(self, x):\n        return self.fc(self.conv(x).cumsum(2).mean((2, 3)))\n"
        "def build():\n    return Net()\n"
    )
    (tmp_path / "other").mkdir()
    write_original(tmp_path / "other", build_network(tmp_path / "other.py", {}), tmp_path / "other.py", {})
    given = network.model_copy(update={"folder": tmp_path / "other"})
    with pytest.raises(InputError, match=r"operator CumSum of .* has no counterpart in torch here; known are Abs"):
        run_stage(stage(), given, "int8")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"recalibrate": 8}, "recalibrate is for batch norm that is not folded; allowed here: 0"),
        ({"freeze_observers": 1.5}, "less than or equal to 1"),
        ({"freeze_norms": -0.1}, "greater than or equal to 0"),
        ({"scheme": "int4"}, "u8s8-reduced"),
        ({"images": 0}, "greater than or equal to 1"),
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"steps": 3}, "not permitted"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    """Unknown keys, numbers out of range, and statistics that are folded away."""
    with pytest.raises(ValidationError, match=says):
        stage(**settings)


@pytest.mark.parametrize(
    ("flags", "scheme"), [({"avx2", "avx_vnni"}, "u8s8"), ({"avx2"}, "u8s8-reduced"), ({"asimd"}, "s8s8")]
)
def test_auto_is_resolved_by_the_cpu(flags: set[str], scheme: str) -> None:
    """As in `quantize`."""
    assert stage(scheme="auto").resolved(frozenset(flags)).scheme == scheme
