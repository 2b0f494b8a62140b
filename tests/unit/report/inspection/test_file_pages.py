"""An inspected file in the terminal, as drawing and as page: everything is told, nothing is taken for markup."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from pipeline.core.artifact import TensorSpec
from pipeline.report.inspection import file_html as file_inspection_html
from pipeline.report.inspection import file_map as file_inspection_map
from pipeline.report.inspection import file_rows as rows
from pipeline.report.inspection import file_terminal as file_inspection_terminal
from pipeline.results.file_inspection import (
    SQNR_CEILING_DB,
    FileInspection,
    FileLayer,
    Finding,
    FloatIsland,
    OperatorTime,
    Quantizer,
    RuntimeProfile,
    Weights,
)

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script>[red]{{ 7 * 7 }}"


def quantizer(tensor: str, *, scales: int = 1, low: float = -1.0, point: int = 128) -> Quantizer:
    """Return a quantizer of 8 bits."""
    return Quantizer(
        tensor=tensor,
        dtype="uint8",
        bits=8,
        scales=scales,
        axis=0 if scales > 1 else None,
        scale_min=0.01,
        scale_max=0.02,
        zero_point_min=point,
        zero_point_max=point,
        low=low,
        high=4.08,
    )


@pytest.fixture
def inspection() -> FileInspection:
    """Return an int8 file of four layers: one exact, one in float between the others, one without anything to tell."""
    weights = Weights(
        tensor="w",
        dtype="int8",
        bits=8,
        shape=(8, 3, 3, 3),
        size_bytes=216,
        quantizer=quantizer("w", scales=8, point=0),
    )
    stem = FileLayer(
        name="stem",
        operator="Conv",
        precision="int8",
        weights=weights,
        reads=(quantizer("image"),),
        makes=quantizer("stem", low=0.0, point=0),
        parameters=224,
        size_bytes=280,
        macs=13_824,
        time_ns=75_000,
        ran_as="QLinearConv",
        ran_in="int8",
        sqnr_db=31.26,
        own_sqnr_db=31.26,
        channels=8,
        dead_channels=2,
    )
    gelu = FileLayer(
        name=EVIL, operator="Gelu", precision="int8", ran_in="float32", time_ns=20_000, sqnr_db=28.0, own_sqnr_db=40.0
    )
    flat = FileLayer(name="flat", operator="Reshape", precision="int8", fused_into="stem")
    head = FileLayer(
        name="head",
        operator="MatMul",
        precision="int8",
        weights=weights.model_copy(update={"quantizer": quantizer("w")}),
        macs=1_000,
        sqnr_db=-2.5,
        own_sqnr_db=SQNR_CEILING_DB,
    )
    return FileInspection(
        form="onnx",
        file=EVIL,
        size_bytes=326_500,
        inputs=(TensorSpec(name="image", shape=(1, 3, 8, 8)),),
        samples="32 training images of toy",
        against="float.onnx",
        parameters=224,
        macs=14_824,
        integer_macs=14_824,
        layers=(stem, gelu, flat, head),
        profile=RuntimeProfile(
            runtime="onnxruntime",
            version="1.31.1",
            threads=1,
            runs=50,
            time_ns=100_000,
            elsewhere_ns=5_000,
            operators=(
                OperatorTime(operator="QLinearConv", nodes=1, time_ns=75_000, share=0.75),
                OperatorTime(operator="Gelu", nodes=1, time_ns=25_000, share=0.25),
            ),
        ),
        islands=(FloatIsland(layers=("gelu",), operators=("Gelu",), tensors=("stem",), converted_bytes=5_120),),
        findings=(Finding(kind="float island", message=f"Gelu in float {EVIL}", layers=(EVIL, *"abcdefgh")),),
    )


def printed(inspection: FileInspection, width: int) -> str:
    """Return what the terminal shows."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(file_inspection_terminal.file_table(inspection, width))
    return capture.get()


def parsed(drawing: str) -> ET.Element:
    """Parse a drawing; raises when it is not well-formed."""
    return ET.fromstring(drawing)  # noqa: S314 - the project's own drawing


def with_class(drawing: ET.Element, name: str) -> list[ET.Element]:
    """Return the elements of a class, in order."""
    return [element for element in drawing.iter() if name in element.get("class", "").split()]


def test_layers_that_lose_most_come_first(inspection: FileInspection) -> None:
    """By their own noise; what is exact loses nothing."""
    assert [line.name for line in rows.loses_most(inspection)] == ["stem", EVIL]
    without = [layer.model_copy(update={"own_sqnr_db": None}) for layer in inspection.layers]
    ir = inspection.model_copy(update={"layers": tuple(without)})
    assert [layer.name for layer in ir.loses_most] == ["head", EVIL, "stem"]
    zero = inspection.layers[0].model_copy(update={"own_sqnr_db": 0.0})
    assert inspection.model_copy(update={"layers": (zero,)}).loses_most == (zero,)


@pytest.mark.parametrize("width", [100, 200])
def test_terminal_tells_everything(inspection: FileInspection, width: int) -> None:
    """Figures, what loses most, what to look at, times and layers; weights and ranges where there is room."""
    text = printed(inspection, width)
    assert text.startswith(EVIL)
    for figure in rows.figures(inspection):
        assert re.search(rf"{figure.name} +{re.escape(figure.number)} +{re.escape(figure.note)}", text)
    assert (
        text.index("Most noise") < text.index("Worth a look") < text.index("Time by operator") < text.index("Layers\n")
    )
    assert re.search(r"stem +Conv +int8.* 13\.8 k +75\.0 % +31\.3 dB +31\.3 dB", text)
    assert re.search(r"head +MatMul .*\u22122\.5 dB +exact", text)
    assert ("int8, 8 scales" in text) == (width == 200)
    assert ("0 to 4.08" in text.split("Layers\n")[1]) == (width == 200)
    assert "1 layer without weights, time or noise: --json lists them." in text
    assert "and 3 more" in text
    assert "share of profiled time; profiling itself takes time, so this is no latency" in " ".join(text.split())


def test_noise_has_no_columns_without_a_float_file(inspection: FileInspection) -> None:
    """And a file that was not profiled no times."""
    text = printed(inspection.model_copy(update={"against": None, "profile": None}), 200)
    assert "SQNR" not in text
    assert "Time by operator" not in text
    assert "not profiled" in text


def test_words(inspection: FileInspection) -> None:
    """Types, scales and zero points; what the file asked for and what became of it."""
    stem, gelu, _, head = inspection.layers
    assert rows.weights(stem.weights) == "int8, 8 scales"
    assert rows.weights(head.weights) == "int8, 1 scale, zero 128"
    assert rows.weights(None) == "\u2013"
    assert rows.span(stem.makes) == "0 to 4.08"
    assert rows.computed(gelu) == "int8 \u2192 float32"
    assert [rows.format_decibels(value) for value in (None, 31.26, -2.5, 150.0)] == [
        "\u2013",
        "31.3 dB",
        "\u22122.5 dB",
        "exact",
    ]
    told = rows.tooltip_lines(stem, inspection)
    assert "reads uint8 of image: \u22121 to 4.08" in told
    assert "2 of 8 channels never change" in told
    assert rows.tooltip_lines(inspection.layers[2], inspection).endswith("computed within stem")


def test_map_has_a_row_for_each_layer(inspection: FileInspection) -> None:
    """In order, with the colour of what it is computed in, its noise and its time."""
    drawing = parsed(file_inspection_map.layer_map(inspection))
    assert len(with_class(drawing, "row")) == 4
    kinds = [element.get("class", "").split()[1] for element in with_class(drawing, "block")]
    assert kinds == ["p-int8", "p-float32", "p-int8", "p-int8"]
    assert len(with_class(drawing, "ring")) == len(with_class(drawing, "dot")) == 3
    bars = [float(element.get("width", "0")) for element in with_class(drawing, "macs")]
    assert bars[0] / bars[1] == pytest.approx(75 / 20, rel=0.01)


def test_noise_stands_on_one_scale(inspection: FileInspection) -> None:
    """Less noise is further right; beyond the ends a mark stands at the end."""
    drawing = parsed(file_inspection_map.layer_map(inspection))
    rings = [float(element.get("cx", "0")) for element in with_class(drawing, "ring")]
    dots = [float(element.get("cx", "0")) for element in with_class(drawing, "dot")]
    ticks = [float(element.get("x1", "0")) for element in with_class(drawing, "grid")][:4]
    assert rings[0] == dots[0]
    assert rings[2] == pytest.approx(ticks[0])
    assert dots[2] == pytest.approx(ticks[3])
    assert ticks[1] < rings[1] < rings[0] < dots[1]
    assert dots[1] == pytest.approx(ticks[2])


@pytest.mark.parametrize("wide", [True, False])
def test_drawing_tells_itself_in_words(inspection: FileInspection, wide: bool) -> None:  # noqa: FBT001 - both widths
    """Title and description are there for those who cannot see."""
    drawing = parsed(file_inspection_map.layer_map(inspection, wide=wide))
    assert drawing.get("role") == "img"
    assert "stem: 31.3 dB alone, 31.3 dB with all" in (drawing.findtext(f"{SVG}desc") or "")


def test_page_needs_nothing_else_and_escapes(inspection: FileInspection) -> None:
    """No script, no address to load from; names are text."""
    page = file_inspection_html.render(inspection)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7" in page
    assert not re.search(r"(src|href)=|url\((?!#)|@import", page)
    for text in ("3 of 4", "Most noise", "5.0 %", "QLinearConv", "32 training images of toy", "this is no latency"):
        assert text in page


def test_page_of_a_file_without_layers(inspection: FileInspection) -> None:
    """Sections that have nothing to say are left out."""
    bare = inspection.model_copy(
        update={"layers": (), "islands": (), "findings": (), "profile": None, "against": None, "macs": 0}
    )
    page = file_inspection_html.render(bare)
    assert "<svg" not in page
    assert "Most noise" not in page
    assert "Worth a look" not in page
    assert "0 of 0" in printed(bare, 100)
