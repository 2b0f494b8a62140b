"""Elements of an inline SVG drawing. Colours come from the page's style sheet by class name; all text is escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.core.printable import printable_text

if TYPE_CHECKING:
    from collections.abc import Iterable


def picture(
    size: tuple[float, float], title: str, description: str, parts: Iterable[Markup], *, kind: str = "picture"
) -> Markup:
    """Wrap parts in one element that says in words what it shows; `size` is width and height in pixels."""
    frame = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="{5}" viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" '
        'height="{1:.0f}" role="img"><title>{2}</title><desc>{3}</desc>{4}</svg>'
    )
    inside = Markup("").join(parts)
    return frame.format(*size, printable_text(title), printable_text(description), inside, kind)


def line(kind: str, x1: float, y1: float, x2: float, y2: float, tip: str = "") -> Markup:
    """Draw a straight line."""
    frame = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}">{}</line>')
    return frame.format(kind, x1, y1, x2, y2, tooltip(tip))


def text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> Markup:
    """Write text with its baseline at y."""
    frame = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return frame.format(kind, x, y, anchor, printable_text(words))


def rectangle(kind: str, x: float, y: float, width: float, height: float, tip: str = "") -> Markup:
    """Draw a filled rectangle."""
    frame = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
    return frame.format(kind, x, y, width, height, tooltip(tip))


def circle(kind: str, x: float, y: float, radius: float, tip: str = "") -> Markup:
    """Draw a circle."""
    frame = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}">{}</circle>')
    return frame.format(kind, x, y, radius, tooltip(tip))


def group(kind: str, parts: Iterable[Markup], tip: str = "") -> Markup:
    """Put parts together; a tooltip holds for all of them that have none of their own."""
    return Markup('<g class="{}">{}{}</g>').format(kind, tooltip(tip), Markup("").join(parts))


def tooltip(words: str) -> Markup:
    """Return what a browser shows while the pointer rests on the element; nothing for no words."""
    return Markup("<title>{}</title>").format(printable_text(words)) if words else Markup()
