"""The drawings: round ticks, labels beside each other, well-formed SVG."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.drawing.placement import Box, Mark, gathered, place_labels, round_axis, tick_text
from pipeline.report.run import plot

if TYPE_CHECKING:
    from pipeline.results.run import RunReport

SVG = "{http://www.w3.org/2000/svg}"


def _parsed(drawing: str) -> ET.Element:
    """Parse a drawing; raises when it is not well-formed."""
    return ET.fromstring(drawing)  # noqa: S314 - the project's own drawing


def _texts(drawing: str) -> list[str]:
    """Return every text of a drawing."""
    return [element.text or "" for element in _parsed(drawing).iter(f"{SVG}text")]


@given(low=st.floats(0, 1e6), span=st.floats(1e-3, 1e6), most=st.integers(4, 10))
def test_axis_covers_its_values_with_few_round_ticks(low: float, span: float, most: int) -> None:
    """Every value lies on the axis, whose ticks are at most as many as asked for."""
    found = round_axis(low, low + span, 0, 100, most=most)
    assert found.low <= low + 1e-6 * span
    assert found.high >= (low + span) - 1e-6 * span
    assert 2 <= len(found.ticks) <= most + 1


def test_ticks_are_multiples_of_one_two_or_five() -> None:
    """Ticks are numbers that people count in."""
    assert round_axis(0, 38.6, 0, 100).ticks == (0, 10, 20, 30, 40)
    assert round_axis(79.4, 90.6, 0, 100, most=7).ticks == (75, 80, 85, 90, 95)
    assert tick_text(0.25, 0.05) == "0.25"
    assert tick_text(40.0, 10.0) == "40"


def test_axis_of_one_value_is_drawn() -> None:
    """A span of nothing still has two ends."""
    assert round_axis(5, 5, 0, 100).ticks == (5, 6)


def test_points_in_one_place_share_a_label() -> None:
    """Marks closer than the radius are joined, the others are left alone."""
    found = gathered([Mark(0, 0, ("a",)), Mark(50, 0, ("b",)), Mark(3, 4, ("c",))], radius=8)
    assert [mark.text for mark in found] == [("a", "c"), ("b",)]


def test_labels_cover_neither_each_other_nor_points() -> None:
    """A row of close points gets labels that do not overlap and stay in the frame."""
    frame = Box(0, 0, 600, 400)
    marks = [Mark(200 + 25 * index, 200, (f"{index} stage name",)) for index in range(7)]
    boxes = place_labels(marks, frame)
    assert all(frame.holds(box) for box in boxes)
    assert not any(one.overlap(other) for one, other in combinations(boxes, 2))
    assert not any(box.overlap(Box(m.x - 4, m.y - 4, m.x + 4, m.y + 4)) for box in boxes for m in marks)


@pytest.mark.parametrize("wide", [True, False])
def test_drawings_are_well_formed_and_described(report: RunReport, wide: bool) -> None:  # noqa: FBT001 - a parameter
    """Both drawings parse as XML and have a title and a description for those who cannot see them."""
    for drawing in (plot.score_over_latency(report, wide=wide), plot.sizes(report, wide=wide)):
        root = _parsed(drawing)
        assert root.find(f"{SVG}title") is not None
        described = root.find(f"{SVG}desc")
        assert described is not None
        assert "quantize" in (described.text or "")


def test_plot_labels_every_judged_row_and_emphasises_two(report: RunReport) -> None:
    """Rows with accuracy and latency are labelled; the original and the result have shapes of their own."""
    drawing = plot.score_over_latency(report)
    names = {"0 original", "1 prune", "2 finetune", "3 export onnx", "4 simplify", "5 quantize"}
    assert names <= set(_texts(drawing))
    assert "6 export openvino" not in _texts(drawing)
    kinds = [element.get("class") for element in _parsed(drawing).iter() if "symbol" in element.get("class", "")]
    assert sorted(filter(None, kinds)) == ["symbol original", "symbol result", *["symbol stage"] * 4]


def test_crowded_plot_falls_back_to_numbers(report: RunReport) -> None:
    """Where the names would cover each other, the stages keep their row numbers."""
    middle = report.rows[4]
    crowd = [
        middle.model_copy(
            update={
                "index": index,
                "label": f"finetune with distillation #{index}",
                "timings": (
                    middle.timings[0].model_copy(
                        update={
                            "milliseconds": middle.timings[0].milliseconds.model_copy(
                                update={"value": 21 + 0.6 * index}
                            )
                        }
                    ),
                ),
            }
        )
        for index in range(1, 20)
    ]
    many = (report.rows[0], *crowd, report.rows[5].model_copy(update={"index": 20}))
    texts = _texts(plot.score_over_latency(report.model_copy(update={"rows": many}), wide=False))
    assert {"0 original", "20 quantize"} <= set(texts)
    assert not any("finetune" in text for text in texts)


def test_nothing_to_compare_draws_nothing(report: RunReport) -> None:
    """One judged row is no plot, and rows without sizes are no bars."""
    assert not plot.score_over_latency(report.model_copy(update={"rows": report.rows[:1]}))
    bare = tuple(row.model_copy(update={"size_bytes": None}) for row in report.rows)
    assert not plot.sizes(report.model_copy(update={"rows": bare}))


def test_names_cannot_break_the_drawing(report: RunReport) -> None:
    """Markup and control characters in a label are text."""
    named = report.rows[0].model_copy(update={"label": "</svg><b>&\x00\x07"})
    drawing = plot.sizes(report.model_copy(update={"rows": (named, *report.rows[1:])}))
    assert "0 </svg><b>&\\x00\\x07" in _texts(drawing)
