"""Stages on tasks of several inputs of any type and of several outputs: exported, simplified, quantized, trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from pipeline.core.artifact import Artifact, TensorSpec, payload_digest
from pipeline.core.dataset import Arrays, Samples
from pipeline.core.feeds import sample_count
from pipeline.core.stage import Context, Target
from pipeline.core.task import Task
from pipeline.network.stored import write_original
from pipeline.onnx_graph.file import is_quantized, read_onnx
from pipeline.stages import AnyStage
from tests.several import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

STAGES: TypeAdapter[Any] = TypeAdapter(AnyStage)
#: What each stage starts from, and ends with.
CHAIN = {
    "onnx": ("torch", {"kind": "export", "to": "onnx"}),
    "any": ("torch", {"kind": "export", "to": "onnx", "batch": "dynamic"}),
    "simple": ("onnx", {"kind": "simplify"}),
    "ir": ("any", {"kind": "export", "to": "openvino", "batch": "dynamic"}),
    "int8": ("simple", {"kind": "quantize", "images": 16, "calibration": "min-max", "recover": ["bias"]}),
    "int8 ir": ("int8", {"kind": "export", "to": "openvino"}),
    "auto": ("simple", {"kind": "quantize", "engine": "auto", "images": 16, "budget": "1s", "score_drop": "100%"}),
    "aware": ("torch", {"kind": "quantize-aware-finetune", "images": 16, "epochs": 1, "batch": 8}),
}


class Size:
    """How near the mean size of all outputs is to a number: a score that any network has."""

    name, unit, range, higher_is_better, is_mean = "nearness", "", (0.0, 1.0), True, True

    def statistic(self, prediction: float, target: float) -> float:
        """Return the score of one sample."""
        return 1 / (1 + abs(prediction - target))

    def compute(self, statistics: Sequence[float]) -> float:
        """Return the mean."""
        return sum(statistics) / len(statistics)


class AnyKit:
    """A kit for whatever a network returns: the mean size of all outputs is to be a number."""

    kind = "regression"
    metrics = (Size(),)

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> float:
        """Return the mean size of a sample's outputs."""
        return float(np.mean([np.abs(each).mean() for each in outputs.values()]))

    def collate(self, targets: Sequence[float]) -> Tensor:
        """Return targets as a tensor."""
        return torch.tensor(targets)

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:  # noqa: ANN401 - as forward returns them
        """Return the mean square distance; only the network's own containers are known."""
        leaves = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, tuple) else [outputs]
        sizes = torch.stack([each.reshape(len(targets), -1).abs().mean(1) for each in leaves])
        return (sizes.mean(0) - targets).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "left_out"), [("image and numbers", "nothing"), ("tokens", "auto")])
def test_all_stages_take_it(kind: str, left_out: str, tmp_path: Path) -> None:
    """Names and types of inputs and outputs stay from the network to every file."""
    case = NETWORKS[kind]
    feeds = case.feeds(40)
    split = Samples(feeds, [0.5] * sample_count(feeds))
    task = Task(AnyKit(), Arrays("made up", split, split, split))  # type: ignore[arg-type]
    folder = tmp_path / "torch"
    folder.mkdir()
    definition = tmp_path / "model.py"
    definition.write_text(
        f"from tests.several import NETWORKS\n\n\ndef build():\n    return NETWORKS[{kind!r}].model()\n"
    )
    write_original(folder, case.model(), definition, {}, case.specs(1), reads=True)
    outputs = tuple(TensorSpec(name=name, shape=()) for name in case.outputs)
    made = {
        "torch": Artifact(
            form="torch",
            folder=folder,
            digest=payload_digest("torch", folder),
            inputs=case.specs(1),
            outputs=outputs,
        )
    }
    for name, (given, settings) in CHAIN.items():
        if name == left_out:  # the longest
            continue
        (tmp_path / name).mkdir()
        context = Context(tmp_path / name, 0, Target(), made["torch"], lambda: task)
        outcome = STAGES.validate_python(settings).run(made[given], context)
        made[name] = Artifact(
            form=outcome.form,
            folder=tmp_path / name,
            digest=payload_digest(outcome.form, tmp_path / name),
            inputs=outcome.inputs,
            outputs=outcome.outputs,
        )
        assert [(spec.name, spec.dtype) for spec in outcome.inputs] == [(s.name, s.dtype) for s in case.specs(1)]
        assert tuple(spec.name for spec in outcome.outputs) == case.outputs
    for name in ("int8", "aware"):
        assert is_quantized(read_onnx(made[name].file))
