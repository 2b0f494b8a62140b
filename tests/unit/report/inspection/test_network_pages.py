"""An inspection in the terminal, as drawing and as page: everything is told, and nothing is taken for markup."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from pipeline.core.artifact import TensorSpec
from pipeline.core.errors import InputError
from pipeline.report.inspection import network_html as inspection_html
from pipeline.report.inspection import network_map as inspection_map
from pipeline.report.inspection import network_rows as rows
from pipeline.report.inspection import network_terminal as inspection_terminal
from pipeline.results.inspection import ChannelGroup, Inspection, KeptWhole, Layer, Part

if TYPE_CHECKING:
    from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert(1)</script>[red]{{ 7 * 7 }}"
TRUNK, INNER = Part(channels=64, group="stem"), Part(channels=32, group="blocks.0.up")


def layer(name: str, reads: tuple[Part, ...], makes: tuple[Part, ...], macs: int) -> Layer:
    """Return a convolution."""
    return Layer(name=name, kind="Conv2d 3x3", parameters=10, macs=macs, reads=reads, makes=makes)


@pytest.fixture
def inspection() -> Inspection:
    """Return a residual network with an operator that has no rule and a product of computed tensors."""
    image = Part(channels=3, reason="input of the network")
    answer = Part(channels=10, reason="output of the network")
    fixed = Part(channels=16, reason="aten.sort in the network has no rule (net.py:7)")
    return Inspection(
        name=EVIL,
        inputs=(TensorSpec(name="input", shape=(1, 3, 32, 32)),),
        parameters=1_230_000,
        macs=2_000,
        prunable_macs=1_500,
        layers=(
            layer("stem", (image,), (TRUNK,), 200),
            layer("blocks.0.up", (TRUNK,), (INNER, fixed), 500),
            layer("blocks.0.attention", (), (), 300),
            layer("blocks.0.down", (INNER, fixed), (TRUNK,), 500),
            layer("head", (TRUNK,), (answer,), 500),
        ),
        groups=(
            ChannelGroup(
                name="stem",
                width=64,
                makers=("stem", "blocks.0.down"),
                readers=("blocks.0.up", "head"),
                along=("bn",),
                parameters=1_000_000,
                macs=1_700,
                saved_macs=850,
            ),
            ChannelGroup(
                name="blocks.0.up",
                width=32,
                makers=("blocks.0.up",),
                readers=("blocks.0.down",),
                along=(),
                parameters=20_000,
                macs=1_000,
                saved_macs=500,
            ),
        ),
        kept_whole=(
            KeptWhole(
                reason="aten.sort has no rule",
                operator="aten.sort",
                has_rule=False,
                places=("the network (net.py:7)",),
                layers=("blocks.0.up",),
            ),
            KeptWhole(reason="output of the network", layers=("head",)),
        ),
    )


def printed(inspection: Inspection, width: int) -> str:
    """Return what the terminal shows."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(inspection_terminal.network_table(inspection, width))
    return capture.get()


def parsed(drawing: str) -> ET.Element:
    """Parse a drawing; raises when it is not well-formed."""
    return ET.fromstring(drawing)  # noqa: S314 - the project's own drawing


def with_class(drawing: ET.Element, name: str) -> list[ET.Element]:
    """Return the elements of a class, in order."""
    return [element for element in drawing.iter() if name in element.get("class", "").split()]


@pytest.mark.parametrize("width", [80, 140])
def test_terminal_tells_figures_groups_and_reasons(inspection: Inspection, width: int) -> None:
    """The headline and every number of the table; names of layers where there is room, how many otherwise."""
    text = printed(inspection, width)
    assert EVIL in text
    for figure in rows.figures(inspection):
        assert re.search(rf"{figure.name} +{re.escape(figure.number)} +{re.escape(figure.note)}", text)
    assert re.search(r"Prunable +75\.0 %", text)
    assert re.search(r"Unprunable +1 of 5", text)
    assert re.search(r"stem +64 .*1\.00 M +1\.70 k .*42\.5 %", text)
    assert ("Also made by" in text) == (width == 140)
    assert text.index("Unprunable\noutput of the network") < text.index("Operators without a rule")
    assert re.search(r"aten\.sort +blocks\.0\.up\s+at the network \(net\.py:7\)", text)


def test_map_has_a_row_for_each_layer_in_order(inspection: Inspection) -> None:
    """Names stand from top to bottom; each row says in a tooltip what it reads and makes, and why it stays."""
    drawing = parsed(inspection_map.layer_map(inspection))
    names = [element.text for element in with_class(drawing, "name")]
    assert names == [each.name for each in inspection.layers]
    tips = [row.findtext(f"{SVG}title") or "" for row in with_class(drawing, "row")]
    assert "reads 3 channels that stay: input of the network\nmakes 64 channels of group stem" in tips[0]
    assert "makes 16 channels that stay: aten.sort" in tips[1]
    assert "300 MACs (15.0 %)" in tips[2]


def test_bars_grow_with_the_root_of_the_channels(inspection: Inspection) -> None:
    """64 channels are the longest bar, 32 + 16 of a side share theirs by number; whole channels are hatched."""
    drawing = parsed(inspection_map.layer_map(inspection))
    up = with_class(drawing, "row")[1]
    boxes = [element for element in up.iter(f"{SVG}rect") if "c" in element.get("class", "").split()]
    reads, makes, whole = (float(element.get("width", "0")) for element in boxes)
    assert makes == pytest.approx(2 * whole, rel=0.02)
    assert (makes + whole) / reads == pytest.approx((48 / 64) ** 0.5, rel=0.01)
    assert "url(#whole-wide)" in [element.get("fill") for element in boxes]


def test_one_group_is_one_class_and_colour(inspection: Inspection) -> None:
    """Bars and line of a group have the same classes; a group of one maker is marked as such."""
    drawing = parsed(inspection_map.layer_map(inspection))
    trunk = {tuple(element.get("class", "").split()[-2:]) for element in with_class(drawing, "g1")}
    inner = {tuple(element.get("class", "").split()[-3:]) for element in with_class(drawing, "g2")}
    assert trunk == {("g1", "k0")}
    assert inner == {("g2", "k1", "alone")}
    (rail,) = (element for element in with_class(drawing, "rail") if "g1" in element.get("class", ""))
    assert (len(with_class(rail, "dot")), len(with_class(rail, "ring"))) == (2, 2)


def test_strip_is_as_wide_as_the_macs(inspection: Inspection) -> None:
    """A layer's width is its share; outer modules are named where there is room."""
    drawing = parsed(inspection_map.mac_strip(inspection))
    widths = [float(element.get("width", "0")) for element in with_class(drawing, "neutral")]
    assert [width / sum(widths) for width in widths] == pytest.approx([0.1, 0.25, 0.15, 0.25, 0.25], abs=1e-3)
    assert [element.text for element in with_class(drawing, "tick")] == ["stem", "blocks", "head"]


@pytest.mark.parametrize("wide", [True, False])
def test_drawings_tell_themselves_in_words(inspection: Inspection, wide: bool) -> None:  # noqa: FBT001 - both widths
    """Title and description are there for those who cannot see."""
    for draw in (inspection_map.layer_map, inspection_map.mac_strip):
        drawing = parsed(draw(inspection, wide=wide))
        assert drawing.get("role") == "img"
        assert drawing.findtext(f"{SVG}title")
        assert "stem" in (drawing.findtext(f"{SVG}desc") or "") or draw is inspection_map.mac_strip


def test_page_needs_nothing_else_and_escapes(inspection: Inspection) -> None:
    """No script, no address to load from; the name is text; each group can be shown alone."""
    page = inspection_html.render(inspection)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=|url\((?!#)|@import", page)
    assert ".drawn:has(.g2:hover) .c:not(.g2)" in page
    for text in (
        "75.0 %",
        "1.23 M",
        "aten.sort",
        "the network (net.py:7)",
        "output of the network",
        "3\u00d732\u00d732",
    ):
        assert text in page


def test_page_of_a_network_without_groups_or_macs(inspection: Inspection) -> None:
    """Sections that have nothing to say are left out."""
    bare = inspection.model_copy(update={"groups": (), "layers": (), "kept_whole": (), "macs": 0, "prunable_macs": 0})
    page = inspection_html.render(bare)
    assert "<svg" not in page
    assert "Groups</h2>\n<div" not in page
    assert "Group " not in printed(bare, 140)


def test_page_is_written_into_new_folders(inspection: Inspection, tmp_path: Path) -> None:
    """Folders are made; a place that cannot be written is a bad input."""
    inspection_html.save_page(inspection_html.render(inspection), tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(InputError, match=r"cannot be written: .*Name another file"):
        inspection_html.save_page(inspection_html.render(inspection), tmp_path)


def test_names_that_differ_in_numbers_are_one() -> None:
    """One number becomes ranges, several become stars with how many there are."""
    blocks = [f"blocks.{index}.fc" for index in (0, 1, 2, 5)]
    assert rows.condensed([*blocks, "head"]) == ("blocks.[0-2,5].fc", "head")
    assert rows.condensed(["a.0.b.1", "a.1.b.0", "conv1", "conv2"]) == ("a.*.b.* (2)", "conv1", "conv2")


def test_blocks_are_what_repeats() -> None:
    """The last number counts, unless that leaves single layers: then the first, then the outermost module."""
    nested = ["stages.0.0.a", "stages.0.0.b", "stages.0.0.c", "stages.0.1.a", "stages.0.1.b"]
    assert inspection_map.blocks(nested) == ["stages.0.0"] * 3 + ["stages.0.1"] * 2
    assert inspection_map.blocks(["f.0.c.0.0", "f.0.c.1.0", "f.1.c.0.0", "f.1.c.1.0"]) == ["f.0", "f.0", "f.1", "f.1"]
    assert inspection_map.blocks(["stem", "d1.0.c", "d1.1.c", "d1.2.c"]) == ["stem", "d1", "d1", "d1"]


@pytest.mark.parametrize(("letters", "expected"), [(20, "layer1.downsample.0"), (9, "la\u2026mple.0")])
def test_long_names_are_cut_in_the_middle(letters: int, expected: str) -> None:
    """The end of a name says more than its middle."""
    assert inspection_map.shortened("layer1.downsample.0", letters) == expected
