"""What the stage table says about each row."""

from __future__ import annotations

from typing import get_args

import pytest

from pipeline.core.stage import Target
from pipeline.report import numbers
from pipeline.report.run import facts, headline, rows
from pipeline.report.run.gains import chips, effects_sentence, result
from pipeline.results.run import Effect, RunReport

MINUS = numbers.MINUS


FASTER = Effect(what="speed", change=1.9, judged="better")
SMALLER = Effect(what="size", change=-0.71, judged="better")
LARGER = Effect(what="size", change=0.03, judged="worse")
WORSE = Effect(what="accuracy", change=-0.0031, judged="worse")
WARM = "0.98x [0.96, 1.01]; the device got warmer by 12 C; let it cool down"
BACK = Effect(what="back in float", judged="unsure", names=("a", "b"), why="4.9 dB, and so far, is 2x faster")


@pytest.mark.parametrize(
    ("effects", "said", "marked", "rest"),
    [
        (
            (FASTER, SMALLER, WORSE),
            "1.90x faster, 71% smaller, for -0.31 points",
            [("1.90x faster", "better"), ("71% smaller", "better"), (f"{MINUS}0.31 points", "worse")],
            "",
        ),
        (
            (Effect(what="untimed"), LARGER, WORSE),
            "bought nothing (not timed against the stage before), cost 3% larger, -0.31 points",
            [("bought nothing", "nothing"), ("3% larger", "worse"), (f"{MINUS}0.31 points", "worse")],
            "not timed against the stage before",
        ),
        ((Effect(what="nothing"),), "bought nothing", [("bought nothing", "nothing")], ""),
        (
            (Effect(what="gzip", change=-0.73, judged="better"), WORSE, Effect(what="zeros", change=0.8)),
            "73% smaller with gzip, for -0.31 points, 80.0% zeros",
            [("73% smaller with gzip", "better"), (f"{MINUS}0.31 points", "worse"), ("80.0% zeros", "plain")],
            "",
        ),
        (
            (SMALLER, Effect(what="speed", change=0.5, judged="worse")),
            "71% smaller, for 2.00x slower",
            [("71% smaller", "better"), ("2.00x slower", "worse")],
            "",
        ),
        ((Effect(what="no gain", why=WARM),), f"skipped: no gain ({WARM})", [("skipped: no gain", "nothing")], WARM),
        (
            (BACK, SMALLER, Effect(what="nodes in float", count=1)),
            f"back in float: a and b (in fewer bits: {BACK.why}), 71% smaller, with 1 node in float",
            [("back in float", "unsure"), ("71% smaller", "better")],
            f"a and b (in fewer bits: {BACK.why}), with 1 node in float",
        ),
        ((Effect(what="same file"),), "the same file", [], "the same file"),
        ((Effect(what="bundle"),), "ships the files above", [], "ships the files above"),
        (
            (Effect(what="measurement", change=311.2, count=6),),
            "measured 6 files in 311 s",
            [],
            "measured 6 files in 311 s",
        ),
        ((), "", [], ""),
    ],
)
def test_effects_are_written_as_a_sentence_and_as_chips(
    effects: tuple[Effect, ...], said: str, marked: list[tuple[str, str]], rest: str
) -> None:
    """Gains and costs are marked, reasons stay in one piece whatever words they have, and the rest stays text."""
    assert effects_sentence(effects) == said
    found, beside = chips(effects)
    assert [(chip.text, chip.tone) for chip in found] == marked
    assert beside == rest


def test_every_effect_is_written() -> None:
    """None of what an effect can be is left out of the sentence."""
    for what in get_args(Effect.model_fields["what"].annotation):
        assert effects_sentence((Effect(what=what, change=2, count=1, names=("a",), why="so"),)), what


def test_an_effect_is_stored_as_what_there_is_of_it() -> None:
    """In JSON what an effect has not is absent, and what was stored is read again."""
    assert FASTER.model_dump(mode="json") == {"what": "speed", "change": 1.9, "judged": "better"}
    for effect in (FASTER, BACK, Effect(what="nothing")):
        assert Effect.model_validate_json(effect.model_dump_json()) == effect


def test_runs_of_earlier_versions_have_words_alone(report: RunReport) -> None:
    """Their sentence is shown as it is, nothing is coloured, and it is known which stages made no file."""
    text = report.model_dump(mode="json")
    for row in text["rows"]:
        del row["effects"], row["makes_file"]
    read = RunReport.model_validate(text)
    assert [row.makes_file for row in read.rows] == [True] * 7 + [False]
    found = rows.lines(read)
    assert [line.verdict for line in found] == [row.verdict for row in report.rows]
    assert not any(line.chips for line in found)


def test_every_stage_has_its_line(report: RunReport) -> None:
    """The table has the original and one line for each stage, in order."""
    assert [line.label for line in rows.lines(report)] == [
        "original",
        "prune",
        "finetune",
        "export onnx",
        "simplify",
        "quantize",
        "export openvino",
        "measure",
    ]


def test_line_has_every_number_as_text(report: RunReport) -> None:
    """A measured row is written with intervals, change, cost, sizes and time."""
    line = rows.lines(report)[1]
    assert line.settings == "criterion taylor, allocation latency, ratio 0.5, round_to 8"
    assert line.accuracy == rows.Cell("82.47 %", f"{MINUS}5.95")
    assert (line.latency.text, line.latency.note) == ("21.4 ms", "[21.2, 21.6]")
    assert line.speedup == rows.Cell("1.79x", "[1.77, 1.81]")
    assert (line.macs, line.parameters, line.raw, line.gzip) == ("188 M", "1.61 M", "6.52 MB", "6.01 MB")
    assert line.seconds == "4 min 18 s"


def test_missing_numbers_of_a_row_are_dashes(report: RunReport) -> None:
    """The OpenVINO file has no latency in ONNX Runtime, and neither MACs nor parameters were counted."""
    line = rows.lines(report)[6]
    assert {line.latency.text, line.speedup.text, line.macs, line.parameters} == {numbers.DASH}


def test_original_has_no_change_and_no_speedup(report: RunReport) -> None:
    """The original is compared with nothing."""
    line = rows.lines(report)[0]
    assert (line.accuracy.note, line.speedup.text) == ("", numbers.DASH)


def test_cached_row_says_so(report: RunReport) -> None:
    """A stage that was not run again shows no seconds of this run."""
    assert rows.lines(report)[3].seconds == "cached"


def test_result_is_what_the_target_runtime_reads(report: RunReport) -> None:
    """ONNX Runtime ships the last ONNX file, OpenVINO the last file; a stage that only looks ships nothing."""
    assert result(report).label == "quantize"
    assert result(report.model_copy(update={"target": Target(runtime="openvino")})).label == "export openvino"


def test_a_skipped_stage_is_not_the_result(report: RunReport) -> None:
    """The file that the run is about is that of the last stage that stayed."""
    gain = {"decision": "skipped", "runtime": "onnxruntime", "text": "the same file"}
    last = report.rows[5].model_copy(update={"changed": {"gain": gain}})
    changed = report.model_copy(update={"rows": (*report.rows[:5], last, *report.rows[6:])})
    assert result(changed) is report.rows[4]
    assert [index for index, _, _ in rows.runtime_table(changed).files] == [0, 1, 2, 3, 4, 6]


def test_latency_of_other_thread_counts_is_not_the_targets(report: RunReport) -> None:
    """A target of two threads shows no number that was taken with one."""
    lines = rows.lines(report.model_copy(update={"target": Target(threads=2)}))
    assert {line.latency.text for line in lines} == {numbers.DASH}


def test_runtimes_are_compared_file_by_file(report: RunReport) -> None:
    """The target's runtime stands first; a file that a runtime does not read has dashes there."""
    table = rows.runtime_table(report)
    assert table.runtimes == ("onnxruntime, 1 thread", "openvino, 1 thread")
    assert [index for index, _, _ in table.files] == [0, 1, 2, 3, 4, 5, 6]
    quantized, openvino = table.files[5][2], table.files[6][2]
    assert quantized[1].contended
    assert quantized[1].cpu_speedup == "3.59x [3.56, 3.61]"
    assert openvino[0] == rows.RuntimeCell()
    assert openvino[1].milliseconds == "9.02 ms"


def test_answers_take_the_result(report: RunReport) -> None:
    """The three questions are answered with the shipped file's numbers and the budget's verdicts."""
    faster, right, smaller = headline.answers(report)
    assert (faster.number, faster.tone) == ("3.41x faster", "better")
    assert "38.2 ms \N{RIGHTWARDS ARROW} 11.2 ms in onnxruntime, 1 thread, batch 1." in faster.sentence
    assert (right.number, right.tone) == (f"{MINUS}0.46 points", "plain")
    assert right.sentence.startswith("No difference that 656 test images can show")
    assert smaller.number == "7.12x smaller"
    assert [answer.budget.verdict for answer in (faster, right, smaller) if answer.budget] == [
        "missed",
        "cannot tell",
        "met",
    ]


def test_answers_of_an_unfinished_run_say_what_they_rest_on(report: RunReport) -> None:
    """Without a final test accuracy is that on validation, and without timings there is no speedup."""
    bare = tuple(row.model_copy(update={"timings": ()}) for row in report.rows[:3])
    changes = {"rows": bare, "final": None, "budget": (), "status": "interrupted"}
    faster, right, _ = headline.answers(report.model_copy(update=changes))
    assert faster.number == numbers.DASH
    assert "The test split has not been used." in right.sentence


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("finished", ""),
        ("interrupted", "Interrupted: stopped by hand. The 8 rows so far are kept and valid; run the recipe again"),
        ("failed", "Failed: stopped by hand. The 8 rows so far are kept and valid."),
    ],
)
def test_banner_says_what_happened_to_the_run(report: RunReport, status: str, text: str) -> None:
    """A run that did not finish says why, and that what it has is kept."""
    found = headline.banner(report.model_copy(update={"status": status, "error": "stopped by hand."}))
    assert found.startswith(text)
    assert bool(found) == bool(text)


def test_details_are_flat(report: RunReport) -> None:
    """Pairs of before and after become one line, and a history one line for each of its keys."""
    arrow = numbers.ARROW
    assert facts.flat(report.rows[1].changed)[0] == ("widths.blocks.0.expand", f"96 {arrow} 48")
    assert facts.flat(report.rows[2].changed) == (
        ("device", "cpu"),
        ("history.epoch", "1, 2"),
        ("history.loss", "0.41, 0.28"),
    )
    assert facts.flat({"none": None, "flag": True, "empty": []}) == (("none", "–"), ("flag", "yes"), ("empty", "none"))  # noqa: RUF001 - the dash itself


def test_header_names_machine_data_and_recipe(report: RunReport) -> None:
    """The header says where, with what and on what the numbers were taken."""
    found = dict(facts.header(report))
    assert found["Machine"] == "Intel Xeon 6975P-C, avx2 avx512f avx512_vnni"
    assert found["Data"] == "elpv: 1,312 train, 656 validation, 656 test"
    assert found["Recipe"].endswith("digest ab12ab12ab12, seed 7")
    assert found["Run"] == "2026-03-14 09:26:53 UTC, took 42 min 47 s"
    assert "onnxruntime 1.31.1, 1 thread" in facts.about(report)
    assert "Of the data" not in found
    noted = report.model_copy(update={"data": {**report.data, "notes": ["two copies", "no images of a class"]}})
    assert facts.header(noted)[1:3] == (("Of the data", "two copies"), ("Of the data", "no images of a class"))


def test_where_the_target_was_not_timed_the_table_shows_what_was(report: RunReport) -> None:
    """As for a target of torch after a measurement of exported files alone; the place is named with the numbers."""
    expected = [line.latency for line in rows.lines(report)]
    assert any(each != numbers.DASH for each in expected)
    other = report.model_copy(update={"target": Target(runtime="torch")})
    assert [line.latency for line in rows.lines(other)] == expected
    assert rows.timed_place(other) == "onnxruntime, 1 thread"
    assert any("in onnxruntime, 1 thread" in each.sentence for each in headline.answers(other))
