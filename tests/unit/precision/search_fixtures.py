"""A search without a clock: small real graphs, and answers by what a candidate is instead of what it does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import InputError, SecateurError
from pipeline.core.feeds import sample_count
from pipeline.core.stage import SilentProgress, Target
from pipeline.core.task import ACCURACY
from pipeline.core.units import ScoreDrop
from pipeline.onnx_graph.file import read_onnx, write_onnx
from pipeline.precision import candidates, search
from pipeline.precision.evaluation import PairedTime
from pipeline.precision.problem import SearchProblem, plan_of
from pipeline.precision.targets import target_facts
from pipeline.precision.variant import Variant, build
from pipeline.results.run import Interval
from tests.defaults import asked
from tests.feeds import fed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest
    from numpy.typing import NDArray
    from onnx import ModelProto

    from pipeline.compress.quantization.engines.engine import QuantizedGraph
    from pipeline.precision.problem import SearchResult
    from pipeline.precision.targets import TargetFacts
    from pipeline.results.precision import CandidateFile, PrecisionPlan

SAMPLES = np.random.default_rng(0).standard_normal((12, 3, 8, 8), dtype=np.float32)
VNNI = "avx avx2 fma avx512f avx512_vnni"
HASWELL = "avx avx2 fma"
#: The float file, static int8 by what makes it, or the name of another precision.
What = Variant | str
#: What a quantization that does nothing special asks for.
PLAIN = asked("u8s8")
BUDGET_S = 100.0


@cache
def network(
    names: tuple[str, ...] = ("stem", "relu", "dw", "point", "add", "mean", "fc"), batch: int = 1
) -> ModelProto:
    """Return a residual network with a depthwise convolution; `names` are those of its nodes, batch 0 is dynamic."""
    generator = np.random.default_rng(1)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((generator.standard_normal(shape) / 3).astype(np.float32), name)

    stem, relu, depthwise, point, add, mean, linear = names
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], stem, pads=[2] * 4),
        helper.make_node("Relu", ["a"], ["b"], relu),
        helper.make_node("Conv", ["b", "w2"], ["c"], depthwise, pads=[1] * 4, group=16),
        helper.make_node("Conv", ["c", "w3", "b3"], ["d"], point),
        helper.make_node("Add", ["b", "d"], ["e"], add),
        helper.make_node("ReduceMean", ["e", "axes"], ["f"], mean, keepdims=0),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["logits"], linear, transB=1),
    ]
    weights = [
        tensor("w1", 16, 3, 5, 5),
        tensor("w2", 16, 1, 3, 3),
        tensor("w3", 16, 16, 1, 1),
        tensor("b3", 16),
        tensor("w4", 4, 16),
        tensor("b4", 4),
        numpy_helper.from_array(np.array([2, 3]), "axes"),
    ]
    size = batch or "batch"
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [size, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size, 4])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@cache
def quantized(scheme: str, calibration: str, kept: tuple[str, ...], names: tuple[str, ...]) -> QuantizedGraph:
    """Return what onnxruntime's engine makes of the network; asked for again and again, so made once."""
    request = asked(scheme, calibration=calibration, keep=kept)  # type: ignore[arg-type]
    return build(network(names), fed(SAMPLES[:4]), Variant("onnxruntime", request))


@dataclass
class World:
    """Answers about candidates, and everything that was asked. Functions take what a candidate is.

    `installed` engines all make what onnxruntime's makes. `error` is raised instead of making a file, `refused` by the
    device's runtime when a file is timed, `broken` by the runtime here, and `failing` whatever is timed; `again` is the
    speedup when it is timed last.
    """

    folder: Path
    speed: Callable[[What], float] = lambda what: 1.0 if what == "float" else 2.0
    accuracy: Callable[[What], float] = lambda _: 0.9
    decibels: Callable[[What], float] = lambda _: 30.0
    far: Callable[[What], str] = lambda _: ""
    error: Callable[[Variant], SecateurError | None] = lambda _: None
    refused: Callable[[What], str] = lambda _: ""
    broken: Callable[[What], SecateurError | None] = lambda _: None
    again: Callable[[What], float] | None = None
    failing: SecateurError | None = None
    installed: tuple[str, ...] = ("onnxruntime",)
    spread: float = 0.005
    #: What was made with how many images, and what was timed together with which budget.
    made: list[tuple[Variant, int]] = field(default_factory=list)
    timed: list[tuple[list[What], float]] = field(default_factory=list)
    what: dict[str, What] = field(default_factory=dict)
    question: SearchProblem | None = None
    evaluation: Any = None

    def find(self, *, flags: str = VNNI, runtime: str = "onnxruntime", **settings: Any) -> SearchResult:  # noqa: ANN401
        """Search among what this world answers."""
        facts = settings.pop("facts", None) or target_facts({"architecture": "x86_64", "isa": flags.split()}, runtime)
        names = settings.pop("names", ("stem", "relu", "dw", "point", "add", "mean", "fc"))
        self.question = self.asked(facts, names, **settings)
        self.evaluation = self._evaluation(runtime)
        return search.search(self.question, self.evaluation, SilentProgress())

    def asked(self, facts: TargetFacts, names: tuple[str, ...], **settings: Any) -> SearchProblem:  # noqa: ANN401
        """Write the float file and return the question about it."""
        given = self.folder / "float.onnx"
        write_onnx(network(names), given)
        usual: dict[str, Any] = {
            "given": given,
            "folder": self.folder / "candidates",
            "feeds": fed(SAMPLES),
            "facts": facts,
            "score_drop": ScoreDrop(0.5, "pt"),
            "budget_s": BUDGET_S,
            "request": PLAIN,
            "schemes": facts.schemes,
        }
        return SearchProblem(**{**usual, **settings})

    def plan(self, found: SearchResult) -> PrecisionPlan:
        """Return what the report gets."""
        assert self.question is not None
        return plan_of(self.question, self.evaluation, found, moved={}, began=0.0)

    def rows(self, found: SearchResult) -> dict[str, CandidateFile]:
        """Return the rows of the report by their labels, which tell candidates apart."""
        rows = self.plan(found).candidates
        by_label = {row.label: row for row in rows}
        assert len(by_label) == len(rows) == len(found.candidates)
        return by_label

    def build(
        self, model: ModelProto, samples: NDArray[np.float32], variant: Variant, _: object = None
    ) -> QuantizedGraph:
        """Stand for the function that makes a quantized graph."""
        self.made.append((variant, sample_count(samples)))
        found = self.error(variant)
        if found is not None:
            raise found
        names = tuple(node.name for node in model.graph.node)
        made = quantized(variant.request.scheme, "min-max", variant.asked.keep, names)
        copy = onnx.ModelProto()
        copy.CopyFrom(made.model)
        copy.graph.name = f"made {len(self.what)}"
        self.what[copy.graph.name] = variant
        return replace(made, model=copy)

    def is_what(self, file: Path) -> What:
        """Return what a file is: its graph's name tells."""
        name = read_onnx(file).graph.name
        if name == "float" and file.name != "float.onnx":
            return "other"
        return self.what.get(name, name)

    def _evaluation(self, runtime: str) -> Any:  # noqa: ANN401 - stands for an Evaluation
        def decibels(_: Path, file: Path) -> float:
            what = self.is_what(file)
            error = self.broken(what)
            if error is not None:
                raise error
            return self.decibels(what)

        def interval(value: float) -> Interval:
            return Interval(value=value, low=value * (1 - self.spread), high=value * (1 + self.spread))

        def times(files: Sequence[Path], budget_s: float) -> list[PairedTime]:
            whats = [self.is_what(file) for file in files]
            self.timed.append((whats, budget_s))
            if self.failing is not None:
                raise self.failing
            bad = [reason for what in whats if (reason := self.refused(what))]
            if bad:
                raise InputError(bad[0])
            is_last = self.again is not None and budget_s == search.LAST * BUDGET_S
            speed = self.again if is_last and self.again is not None else self.speed
            ratios = [speed(what) / speed(whats[0]) for what in whats]
            return [
                PairedTime(interval(ratio) if place else None, interval(1 / ratio))
                for place, ratio in enumerate(ratios)
            ]

        def refusals(files: Sequence[Path]) -> list[str]:
            return [self.refused(self.is_what(file)) for file in files]

        def difference(before: Path, after: Path) -> Interval:
            value = self.accuracy(self.is_what(after)) - self.accuracy(self.is_what(before))
            return Interval(value=value, low=value - 0.01, high=value + 0.01)

        return SimpleNamespace(
            decibels=decibels,
            far=lambda file: self.far(self.is_what(file)),
            score=lambda file: self.accuracy(self.is_what(file)),
            difference=difference,
            timed=times,
            refusals=refusals,
            held_out=fed(SAMPLES),
            task=SimpleNamespace(judged=ACCURACY, count=lambda _split: 100),
            runtime=runtime,
            target=Target(),
        )

    def install(self, monkeypatch: pytest.MonkeyPatch) -> World:
        """Let searches make files as this world says."""
        monkeypatch.setattr(candidates, "build", self.build)
        monkeypatch.setattr(
            search,
            "missing_engine",
            lambda engine: None if engine.name in self.installed else f"pip install 'secateur[{engine.name}]'",
        )
        return self
