"""A latency as target of `prune`: what of it is filled in from the stages behind, and what is said before a run."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.core.file_precision import FilePrecision
from pipeline.core.stage import Stage, Target
from pipeline.core.units import Factor
from pipeline.stages import STAGES
from pipeline.stages.prune import Prune
from tests.unit.stages.prune_networks import prune

HALF = {"target": {"latency": "0.5x"}}
NO_VNNI = frozenset({"avx2"})


def stages(*settings: dict[str, Any]) -> list[Stage]:
    """Return stages, resolved for a processor whose int8 products saturate."""
    made = (STAGES[each["kind"]].model_validate(each, strict=False) for each in settings)
    return [stage.resolved(NO_VNNI) for stage in made]


def aimed(settings: dict[str, Any], *later: dict[str, Any]) -> Prune:
    """Return a `prune` with everything filled in."""
    return Prune.model_validate({"kind": "prune", **HALF, **settings}).following(stages(*later))


EXPORT = {"kind": "export", "to": "onnx"}
REDUCED = {"engine": "onnxruntime", "scheme": "u8s8-reduced"}


@pytest.mark.parametrize(
    ("settings", "later", "found"),
    [
        ({}, [], FilePrecision()),
        ({}, [EXPORT], FilePrecision()),
        ({}, [EXPORT, {"kind": "quantize"}, {"kind": "export", "to": "openvino"}], {"precision": "int8", **REDUCED}),
        ({}, [EXPORT, {"kind": "quantize", "scheme": "u8u8"}], {"precision": "int8", "scheme": "u8u8"}),
        ({}, [{"kind": "prune", **HALF}, EXPORT, {"kind": "quantize"}], {"precision": "int8", **REDUCED}),
        ({}, [EXPORT, {"kind": "quantize", "keep": ["a*"], "per_channel": False}], {"keep": ("a*",)}),
        ({}, [EXPORT, {"kind": "quantize", "precision": "fp16"}], {"precision": "fp16", "scheme": ""}),
        ({}, [{"kind": "quantize-aware-finetune", "epochs": 1, "scheme": "s8s8"}], {"scheme": "s8s8"}),
        ({}, [EXPORT, {"kind": "quantize", "engine": "auto"}], {"precision": "int8", "certain": False}),
        ({"precision": "fp32"}, [EXPORT, {"kind": "quantize"}], FilePrecision()),
        ({"precision": "int8-dynamic"}, [EXPORT], {"precision": "int8-dynamic", "engine": "onnxruntime"}),
        ({"precision": "int8"}, [EXPORT, {"kind": "quantize", "scheme": "u8u8"}], {"scheme": "u8u8"}),
    ],
)
def test_what_is_timed_is_what_ships(
    settings: dict[str, Any], later: list[dict[str, Any]], found: FilePrecision | dict[str, Any]
) -> None:
    """The last stage that gives a file a precision decides, unless the recipe does."""
    stage = aimed(settings, *later)
    latency = stage.aim.latency
    assert latency is not None
    assert stage.precision == latency.file.precision
    assert stage.following(stages(*later)).model_dump() == stage.model_dump()
    if isinstance(found, FilePrecision):
        assert latency.file == found
    else:
        assert {name: getattr(latency.file, name) for name in found} == found


def test_a_latency_is_a_factor_or_a_time() -> None:
    """Moves are each once and in one order, and depend on what a schedule can follow."""
    first = aimed({"moves": ["heads", "channels", "heads"]}).aim.latency
    second = aimed({"target": {"latency": "2.5ms"}, "schedule": {"method": "soft", "epochs": 1}}).aim.latency
    assert first is not None
    assert second is not None
    assert (first.factor, first.milliseconds, first.moves) == (0.5, None, ("channels", "heads"))
    assert (second.factor, second.milliseconds, second.moves) == (None, 2.5, ("channels",))
    assert (first.budget_ms(8.0), second.budget_ms(8.0)) == (4.0, 2.5)
    assert aimed({}).moves == ("channels", "blocks")


def test_a_latency_has_an_allocation_of_its_own() -> None:
    """Others keep theirs, and bring a latency widths alone."""
    assert aimed({}).allocation == "knapsack"
    assert prune().allocation == "global"
    assert aimed({"allocation": "uniform"}).moves == ("channels",)
    assert prune(target={"macs": 0.5}, allocation="knapsack").allocation == "knapsack"


def test_without_a_latency_nothing_is_filled_in() -> None:
    """Neither the stage nor what is written of it changes with the stages behind."""
    stage = prune()
    later = stages(EXPORT, {"kind": "quantize"})
    assert stage.following(later) is stage
    assert not {"precision", "moves", "priced"} & stage.model_dump(mode="json").keys()
    assert "latency" not in prune(ratio=None, target={"macs": 0.5}).model_dump(mode="json")["target"]
    assert stage.depends_on() == ("torch",)
    assert not any((stage.measures, stage.computes, stage.unmet(Target(runtime="torch"))))
    assert not stage.remarks(later, Target()).lines()


def test_what_is_timed_counts() -> None:
    """Only what a time depends on is written, with what makes the files, the runtime and the machine."""
    plain, kept, calibrated = (
        aimed({}, EXPORT, {"kind": "quantize", **more}) for more in ({}, {"keep": ["a"]}, {"calibration": "mse"})
    )
    assert plain.model_dump(mode="json") == calibrated.model_dump(mode="json") != kept.model_dump(mode="json")
    assert plain.model_dump(mode="json")["target"] == {
        "macs": None,
        "parameters": None,
        "size": None,
        "latency": "0.5x",
    }
    assert {"torch", "onnx", "onnxscript", "onnxruntime", "numpy"} == set(plain.depends_on())
    assert plain.measures
    assert plain.computes


IN_ORT = "in onnxruntime on local, 1 thread;"
HALF_OF_IT = f"{IN_ORT} 0.5x of the unpruned file"
CHECKED = "; quantize chooses the precision by time, so the final file is checked again"


@pytest.mark.parametrize(
    ("settings", "later", "said"),
    [
        ({}, {}, f"priced as int8 (u8s8-reduced) {HALF_OF_IT}"),
        ({"target": {"latency": "2.5ms"}}, {}, f"priced as int8 (u8s8-reduced) {IN_ORT} at most 2.5ms"),
        ({}, {"precision": "fp16"}, f"priced as fp16 {HALF_OF_IT}"),
        ({}, {"engine": "auto", "scheme": "u8s8"}, f"priced as int8 (u8s8) {HALF_OF_IT}{CHECKED}"),
    ],
)
def test_a_plan_says_what_is_timed(settings: dict[str, Any], later: dict[str, Any], said: str) -> None:
    """One line."""
    stage = Prune.model_validate({"kind": "prune", **HALF, **settings})
    remarks = stage.remarks(stages(EXPORT, {"kind": "quantize", **later}), Target())
    assert (remarks.notes, remarks.warnings) == ((said,), ())


def test_where_and_how_it_is_timed_is_said() -> None:
    """The target's own."""
    target = Target(device="board", runtime="openvino", threads=4, batch=8)
    said = Prune.model_validate({"kind": "prune", **HALF}).remarks((), target).notes
    assert said == ("priced as fp32 in openvino on board, 4 threads, batch 8; 0.5x of the unpruned file",)


ADVICE = "the file that ships has another time; remove precision to price that"


@pytest.mark.parametrize(
    ("precision", "later", "said"),
    [
        ("fp32", [EXPORT, {"kind": "quantize"}], "priced in fp32, but the quantize stage after it makes int8"),
        ("int8", [EXPORT], "priced in int8, but no stage after it quantizes"),
        ("int8", [EXPORT, {"kind": "quantize"}], ""),
        (None, [EXPORT, {"kind": "quantize"}], ""),
    ],
)
def test_another_precision_than_ships_is_said(precision: str | None, later: list[dict[str, Any]], said: str) -> None:
    """A warning, not an error: what ships may be quantized elsewhere."""
    stage = Prune.model_validate({"kind": "prune", **HALF, "precision": precision})
    assert stage.remarks(stages(*later), Target()).warnings == ((f"{said}: {ADVICE}",) if said else ())


def test_torch_times_no_file() -> None:
    """Said before anything runs."""
    ((key, said),) = aimed({}).unmet(Target(runtime="torch"))
    assert (key, aimed({}).unmet(Target())) == ("target", ())
    assert said.endswith("allowed: target.runtime onnxruntime or openvino")


def test_factors_below_one_have_a_type() -> None:
    """They are told from times by it."""
    stage = Prune.model_validate({"kind": "prune", **HALF})
    assert stage.target is not None
    assert isinstance(stage.target.latency, Factor)
