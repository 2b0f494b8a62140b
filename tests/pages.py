"""The pages for users, and their blocks: what tests run, validate and look up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: Pages whose commands need more than this machine; tests/containers and tests/arm run those of these.
ELSEWHERE = ("containers.md", "devices.md")

_BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A block of a page: the file that it is written to (empty for none), its language, its text."""

    file: str
    language: str
    text: str


def blocks(page: Path, section: str = "") -> list[Block]:
    """Return the blocks of a page in their order, or those of one `##` section."""
    text = page.read_text()
    if section:
        (text,) = (each for each in re.split(r"^## ", text, flags=re.MULTILINE) if each.startswith(f"{section}\n"))
    return [Block(*found) for found in _BLOCK.findall(text)]


def links(page: Path) -> list[str]:
    """Return where the links of a page lead, without those to other hosts."""
    text = _BLOCK.sub("", page.read_text())
    return [link for link in _LINK.findall(text) if "://" not in link]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def guides() -> list[Path]:
    """Return the pages of docs/ in the order in which docs/README.md lists them."""
    return [
        DOCS / link for link in re.findall(r"^\d+\. \[.*?\]\((.*?)\)", (DOCS / "README.md").read_text(), re.MULTILINE)
    ]
