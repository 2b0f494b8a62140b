"""The model card says what is known, with intervals, and what is not known, as such."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.bundle.card import input_text, score_lines, write_card
from pipeline.bundle.place import write_bundle
from pipeline.bundle.preprocessing import write_preprocessing
from pipeline.core.task import MetricFacts
from pipeline.results.bundle import BundledAccuracy
from pipeline.results.run import BudgetLine, Score
from tests.unit.bundle.small_content import CLASSES, LINEAGE, content, dataset, record
from tests.unit.bundle.small_task import kit_content

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.bundle.content import Content

NON_COMMERCIAL = "CC-BY-NC-SA-4.0"


def card_of(made: Content, folder: Path, *, label: str | None = "plain", licence: str = "MIT") -> str:
    """Write the card of a bundle with model files and one sample, and return it."""
    (folder / "model").mkdir(parents=True)
    (folder / "samples").mkdir()
    for file in made.files.values():
        for part in file.parent.glob("model.*"):
            shutil.copy(part, folder / "model")
    samples = {"samples": [{"file": "samples/0.png", "label": label, "licence": licence}]}
    (folder / "samples" / "expected.json").write_text(json.dumps(samples))
    write_preprocessing(made, folder)
    write_card(made, folder)
    return (folder / "MODEL_CARD.md").read_text()


def test_everything_that_was_measured(tmp_path: Path) -> None:
    """Classes, files, accuracy, latency, stages, data and machine, each with its interval and its unit."""
    text = card_of(content(tmp_path / "run"), tmp_path / "bundle")
    assert text.startswith(
        "# patterns on a small board\n\nA network that classifies grey images of 12 x 12 pixels into 3"
    )
    assert ", ".join(CLASSES) in text
    for name in ("model.onnx", "model.xml", "model.bin"):
        assert f"| model/{name} | {(tmp_path / 'bundle' / 'model' / name).stat().st_size / 1000:.3g}"[:20] in text
    assert "| test, 24 images | 91.67 % [74.2, 97.7] | 87.50 % [69.0, 95.7] | \N{MINUS SIGN}4.17 [" in text
    assert "| validation, 24 images | 91.67 % [74.2, 97.7] | 87.50 %" in text
    assert "| model/model.onnx | onnxruntime | 1 | 0.988 ms [0.950, 1.020] | 2.38x [2.31, 2.44] |" in text
    assert "One call of 1 image on Example 1000 (x86\\_64)" in text
    assert "| export | 87.50 % [69.0, 95.7] | 500 | 40.0 k | 2.10 kB |" in text
    assert "Data: drawn, 48 train, 24 validation, 24 test images." in text
    assert "venv/bin/pip install -r requirements.txt\n" in text
    assert "venv/bin/pip install -r requirements-openvino.txt      # for --runtime openvino" in text


def test_nothing_of_the_clock_or_this_machine(tmp_path: Path) -> None:
    """The same run gives the same card anywhere, whenever."""
    made = content(tmp_path / "run")
    one, two = (card_of(made, tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert made.report.started[:10] not in one
    assert str(tmp_path) not in one


@pytest.mark.parametrize(
    ("licence", "options", "told"),
    [
        (NON_COMMERCIAL, {}, [f"data: {NON_COMMERCIAL}"]),
        ("MIT", {}, []),
        ("", {"data_licence": "Non-commercial use"}, None),
    ],
)
def test_non_commercial_data_comes_first(
    tmp_path: Path, licence: str, options: dict[str, Any], told: list[str]
) -> None:
    """Whoever reads the card meets the restriction before anything else."""
    made = content(tmp_path / "run", dataset(licence=licence), runtimes=("onnxruntime",), **options)
    text = card_of(made, tmp_path / "bundle", label=None, licence="CC0-1.0")
    assert ("**Non-commercial.**" in text.split("\n\n")[1]) == (told != [])
    for each in told or ():
        assert each in text.split("\n\n")[1]


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    """No licence, no test, no latency, an unknown way to make images: each has its sentence."""
    data = replace(dataset(licence=""), preprocessing=None)
    made = content(tmp_path / "run", data, runtimes=("onnxruntime",))
    rows = tuple(row.model_copy(update={"timings": ()}) for row in made.report.rows)
    report = made.report.model_copy(update={"final": None, "rows": rows})
    text = card_of(replace(made, report=report), tmp_path / "bundle")
    assert "| data it was trained on (not in this bundle) | not stated |" in text
    assert '"Not stated" means that nobody stated it: ask' in text
    assert "Test accuracy of this file was not measured" in text
    assert "## Latency\n\nIt was not measured." in text
    assert "made by its own code" in text


@pytest.mark.parametrize(
    ("decoded", "sentence", "place"),
    [("", False, "onnxruntime"), ("first", False, "onnxruntime, decoding included"), ("all", True, "onnxruntime")],
)
def test_latency_of_a_task(tmp_path: Path, decoded: str, place: str, *, sentence: bool) -> None:
    """At which size, where there were several, and whether decoding is in it: of all calls, or of the row's alone."""
    made = kit_content(tmp_path / "run", "token", runtimes=("onnxruntime",), samples=1)
    (row, timing) = next((row, row.timings[0]) for row in made.report.rows if row.timings)
    scopes = {"first": ("model+decode", "model"), "all": ("model+decode",) * 2}.get(decoded, ("model",) * 2)
    timings = tuple(
        timing.model_copy(update={"size": f"length={size}", "time_scope": scope})
        for size, scope in zip((8, 99), scopes, strict=True)
    )
    rows = tuple(each.model_copy(update={"timings": timings if each is row else ()}) for each in made.report.rows)
    write_bundle(replace(made, report=made.report.model_copy(update={"rows": rows})), (tmp_path / "bundle",))
    text = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "| File | Runtime | Size | Threads | Milliseconds | Speedup |\n|---|---|---|---:|---:|---:|\n" in text
    assert f"| {place} | length=8 | 1 | " in text
    assert "| onnxruntime | length=99 | 1 | " in text
    assert ("\nEach call also decodes the outputs as the task does.\n\n| File" in text) is sentence


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "words (int64 [8])"),
        ({"dynamic": {"0": "length"}}, "words (int64 [length]; open: length (8 in the data))"),
    ],
)
def test_sizes_that_are_open(given: dict[str, Any], told: str) -> None:
    """By their names, with those of the data."""
    assert input_text({"name": "words", "dtype": "int64", "shape": [8], **given}) == told


def test_differences_have_the_unit_of_their_metric() -> None:
    """Points of shares, and else the unit of its values."""
    units = {"error": "kg", "share": ""}
    metrics = [MetricFacts(name=name, unit=unit, low=0, high=1, higher_is_better=True) for name, unit in units.items()]
    before, after = (Score(images=9, error=value, share=value) for value in (0.25, 0.5))
    found = BundledAccuracy(validation_original=before, validation_result=after)
    assert [line[-1] for line in score_lines(metrics, found)] == ["+0.25 kg", "+25.00 points"]


@pytest.mark.parametrize(("label", "told"), [(None, "The samples are generated"), ("plain", "a few validation images")])
def test_what_samples_prove(tmp_path: Path, label: str | None, told: str) -> None:
    """Both kinds prove the computation, none of them the accuracy."""
    text = card_of(content(tmp_path / "run", runtimes=("onnxruntime",)), tmp_path / "bundle", label=label)
    assert told in text.partition("## Limits")[2]


@pytest.mark.parametrize(
    ("settings", "changed", "precision", "limit"),
    [
        ({"precision": "int8"}, {}, "It computes in int8.", True),
        ({"precision": "fp16-weights"}, {}, "It computes in single precision.", False),
        ({"precision": "int8", "arm_exact": True}, {"may_round_on_arm": []}, "int8, the same bits on every", False),
    ],
)
def test_what_other_processors_may_change(
    tmp_path: Path, settings: dict[str, Any], changed: dict[str, Any], precision: str, *, limit: bool
) -> None:
    """Integers that are rounded by processor are a limit; float files and exact ones have none of it."""
    lineage = (*LINEAGE, record("quantize", changed=changed, **settings))
    text = card_of(content(tmp_path / "run", runtimes=("onnxruntime",), lineage=lineage), tmp_path / "bundle")
    assert precision in text
    assert ("Other processors sum and round integers differently" in text) is limit


def test_markup_in_names_stays_text(tmp_path: Path) -> None:
    """A name from outside cannot make a table, a link or a page of its own."""
    made = content(
        tmp_path / "run", replace(dataset(), classes=("a|b", "<script>", "[x](y)")), runtimes=("onnxruntime",)
    )
    line = BudgetLine(name="size", asked="1 MB", found="2 | 3", verdict="missed")
    report = made.report.model_copy(update={"name": "*bold*", "budget": (line,)})
    text = card_of(replace(made, report=report), tmp_path / "bundle")
    assert text.startswith("# \\*bold\\*\n")
    assert "a\\|b, &lt;script&gt;, \\[x\\](y)" in text
    assert "| size | 1 MB | 2 \\| 3 | missed |" in text
