"""One finished run with every kind of row, as the report's tests see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.stage import Target
from pipeline.report.run.gains import effects_sentence
from pipeline.results.run import BudgetLine, Effect, FinalTest, Interval, Row, RunReport, Score, Timing

if TYPE_CHECKING:
    from pipeline.core.artifact import Form
    from pipeline.core.stage import Runtime

IMAGES = 656

RECIPE: dict[str, Any] = {
    "format": 1,
    "name": "Solar-cell inspection on a 2-core edge box",
    "budget": {"latency": "0.25x", "accuracy_drop": "0.5pt", "size": "2MB"},
    "stages": [
        {"kind": "prune", "criterion": "taylor", "allocation": "latency", "ratio": 0.5},
        {"kind": "finetune", "epochs": 3, "distill": {"from": "original"}},
        {"kind": "export", "to": "onnx"},
        {"kind": "simplify"},
        {"kind": "quantize", "engine": "auto"},
        {"kind": "export", "to": "openvino"},
        {"kind": "measure"},
    ],
}


def around(value: float, share: float = 0.01) -> Interval:
    """Return an interval of plus and minus `share` around a value."""
    return Interval(value=value, low=value * (1 - share), high=value * (1 + share))


def right(correct: int) -> Score:
    """Return the accuracy of `correct` of the validation images."""
    share = correct / IMAGES
    return Score(images=IMAGES, accuracy=share, balanced_accuracy=share - 0.011, f1=share - 0.023)


def timed(runtime: Runtime, value: float, factor: float | None, *, contended: bool = False) -> Timing:
    """Return one timing with its paired speedup."""
    return Timing(
        runtime=runtime,
        threads=1,
        milliseconds=around(value),
        cpu_milliseconds=around(value * 1.02),
        speedup=around(factor) if factor else None,
        cpu_speedup=around(factor * 0.99, 0.008) if factor else None,
        contended=contended,
    )


def better(what: Any, change: float) -> Effect:  # noqa: ANN401 - checked by the model
    """Return a gain."""
    return Effect(what=what, change=change, judged="better")


def worse(what: Any, change: float) -> Effect:  # noqa: ANN401 - checked by the model
    """Return a cost."""
    return Effect(what=what, change=change, judged="worse")


def row(index: int, label: str, kind: str, form: Form, **rest: Any) -> Row:  # noqa: ANN401 - passed to the model
    """Return one row; its digest and folder follow from its number unless they are given."""
    given: dict[str, Any] = {"digest": f"{index:x}" * 64, "folder": f"{index:02d}-{kind}", "seconds": 12.3}
    given["verdict"] = effects_sentence(rest.get("effects", ()))
    return Row(index=index, label=label, kind=kind, form=form, **{**given, **rest})


def _rows() -> tuple[Row, ...]:
    """Return the original and one row for each stage of the recipe."""
    return (
        row(
            0,
            "original",
            "original",
            "torch",
            seconds=4.2,
            validation=right(580),
            macs=384_600_000,
            parameters=3_370_000,
            size_bytes=13_480_000,
            gzip_bytes=12_470_000,
            timings=(timed("onnxruntime", 38.24, None), timed("openvino", 33.1, None)),
        ),
        row(
            1,
            "prune",
            "prune",
            "torch",
            config={"kind": "prune", "criterion": "taylor", "allocation": "latency", "ratio": 0.5, "round_to": 8},
            seconds=258,
            validation=right(541),
            macs=188_400_000,
            parameters=1_610_000,
            size_bytes=6_520_000,
            gzip_bytes=6_010_000,
            timings=(timed("onnxruntime", 21.37, 1.789), timed("openvino", 18.9, 1.751)),
            changed={
                "widths": {
                    "blocks.0.expand": {"before": 96, "after": 48},
                    "blocks.1.expand": {"before": 144, "after": 64},
                    "head": {"before": 1280, "after": 704},
                },
                "certificate": {"max_error": 3.1e-06, "tolerance": 1e-4},
            },
            effects=[better("speed", 1.79), better("size", -0.52), worse("accuracy", -0.0595)],
        ),
        row(
            2,
            "finetune",
            "finetune",
            "torch",
            config={"kind": "finetune", "epochs": 3, "lr": 0.01, "distill": {"from": "original"}},
            seconds=1932,
            validation=right(577),
            macs=188_400_000,
            parameters=1_610_000,
            size_bytes=6_520_000,
            gzip_bytes=6_030_000,
            timings=(timed("onnxruntime", 21.41, 1.786), timed("openvino", 18.88, 1.753)),
            changed={"device": "cpu", "history": [{"epoch": 1, "loss": 0.41}, {"epoch": 2, "loss": 0.28}]},
            effects=[better("accuracy", 0.0549)],
        ),
        row(
            3,
            "export onnx",
            "export",
            "onnx",
            digest="2" * 64,
            config={"kind": "export", "to": "onnx", "opset": 18},
            cached=True,
            seconds=3.1,
            validation=right(577),
            macs=188_400_000,
            parameters=1_610_000,
            size_bytes=6_520_000,
            gzip_bytes=6_030_000,
            timings=(timed("onnxruntime", 21.41, 1.786), timed("openvino", 18.88, 1.753)),
            changed={"parity": {"max_absolute_error": 1.4e-05, "same_class": 1.0}},
            effects=[Effect(what="same file")],
        ),
        row(
            4,
            "simplify",
            "simplify",
            "onnx",
            config={"kind": "simplify"},
            cached=True,
            seconds=1.2,
            validation=right(577),
            macs=188_400_000,
            parameters=1_600_000,
            size_bytes=6_480_000,
            gzip_bytes=6_010_000,
            timings=(timed("onnxruntime", 21.35, 1.791), timed("openvino", 18.91, 1.75)),
            changed={"nodes": {"before": 214, "after": 209}},
            effects=[Effect(what="nothing")],
        ),
        row(
            5,
            "quantize",
            "quantize",
            "onnx",
            config={"kind": "quantize", "engine": "auto", "calibration": 128},
            seconds=41,
            validation=right(575),
            macs=188_400_000,
            parameters=1_600_000,
            size_bytes=1_893_000,
            gzip_bytes=1_614_000,
            timings=(timed("onnxruntime", 11.22, 3.408), timed("openvino", 9.13, 3.622, contended=True)),
            changed={"engine": "static QDQ", "calibration": "minmax"},
            effects=[better("speed", 1.90), better("size", -0.71), worse("accuracy", -0.0030)],
        ),
        row(
            6,
            "export openvino",
            "export",
            "openvino",
            config={"kind": "export", "to": "openvino"},
            seconds=2.4,
            validation=right(575),
            size_bytes=1_951_000,
            gzip_bytes=1_640_000,
            timings=(timed("openvino", 9.02, 3.668),),
            effects=[Effect(what="untimed"), worse("size", 0.03)],
        ),
        row(
            7,
            "measure",
            "measure",
            "openvino",
            config={"kind": "measure"},
            digest="6" * 64,
            seconds=312,
            validation=right(575),
            size_bytes=1_951_000,
            gzip_bytes=1_640_000,
            timings=(timed("openvino", 9.02, 3.668),),
            effects=[Effect(what="measurement", change=311.2, count=6)],
        ),
    )


@pytest.fixture
def report() -> RunReport:
    """Return a finished run of seven stages with a final test and a budget."""
    return RunReport(
        name="Solar-cell inspection on a 2-core edge box",
        recipe_file="recipes/efficientnet_lite0-elpv-prune-int8.yaml",
        recipe=RECIPE,
        recipe_digest="ab12" * 16,
        data={"name": "elpv", "train": 1312, "validation": 656, "test": 656, "digest": "cd34" * 16},
        target=Target(),
        seed=7,
        versions={"torch": "2.13.0", "onnxruntime": "1.31.1", "openvino": "2026.4.1"},
        machine={
            "cpu_model": "Intel Xeon 6975P-C",
            "isa": ["avx2", "avx512f", "avx512_vnni"],
            "logical_cores": 2,
            "kernel": "6.8",
        },
        started="2026-03-14T09:26:53+00:00",
        seconds=2567,
        status="finished",
        rows=_rows(),
        final=FinalTest(
            original=Score(accuracy=0.8811, images=656, balanced_accuracy=0.8711, f1=0.8454),
            result=Score(accuracy=0.8765, images=656, balanced_accuracy=0.8652, f1=0.8391),
            difference=Interval(value=-0.0046, low=-0.0141, high=0.0049),
        ),
        budget=(
            BudgetLine(name="latency", asked="at most 0.25x", found="0.29x", verdict="missed"),
            BudgetLine(name="accuracy_drop", asked="at most 0.5 points", found="0.46 points", verdict="cannot tell"),
            BudgetLine(name="size", asked="at most 2 MB", found="1.89 MB", verdict="met"),
        ),
    )
