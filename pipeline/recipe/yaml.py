"""Reads the YAML of a recipe into plain values, and remembers the line of each.

A recipe is plain data: mappings with text keys, lists and scalars of YAML 1.2. Anchors, aliases, merge keys and tags
are refused, so that what a reader sees at a key is what holds there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pipeline.core.errors import Problem, RecipeError
from pipeline.core.paths import kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Where something is in a recipe: keys and list positions from the top.
Place = tuple[str | int, ...]

#: Bytes of a recipe, fifty times those of the longest one here: a megabyte takes half a minute to read.
MAX_BYTES = 128 * 1024
#: Whole numbers beyond this fit into no type of the libraries.
LARGEST = 2**63 - 1
MAX_DEPTH = 16  # a recipe needs five
TOO_DEEP = f"found values nested more than {MAX_DEPTH} deep, allowed: a recipe, which needs five"
_TOO_LONG = f"found more than {MAX_BYTES // 1024} KiB, allowed: a recipe; weights and images are files that it names"
_TAG = "tag:yaml.org,2002:"
PLAIN = frozenset(_TAG + name for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp"))


def dotted_place(place: Sequence[str | int]) -> str:
    """Return a place as text, such as `stages.0.ratio`."""
    return ".".join(str(part) for part in place) or "recipe"


@dataclass
class Document:
    """Plain values, the line (from 1) of each place, and what is wrong already with the YAML itself.

    `first_line` is that of places that no line is known of; None where there are no lines at all.
    """

    data: Any = None
    first_line: int | None = 1
    lines: dict[Place, int] = field(default_factory=dict)
    problems: dict[Place, Problem] = field(default_factory=dict)

    def line(self, place: Place) -> int | None:
        """Return the line of a place, or of the nearest place around it that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, self.first_line)

    def refuse(self, place: Place, line: int | None, message: str) -> None:
        """Note the first problem at a place."""
        self.problems.setdefault(place, Problem(dotted_place(place), message, line))

    def refuses(self, place: Place) -> bool:
        """Return whether a problem is known at a place or around it, so that its value is no longer what was meant."""
        return any(place[:length] in self.problems for length in range(len(place) + 1))


def read_file(path: Path, name: str) -> Document:
    """Read a recipe file; `name` is what messages call it.

    Raises:
        RecipeError: the file cannot be read, is not UTF-8, or is no YAML document at all.
    """
    kind = kind_of(path)
    if kind != "a file":
        what = kind or "no such file"
        raise RecipeError(name, (Problem("recipe", f"found {what}, allowed: a recipe in YAML"),))
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(name, (Problem("recipe", f"found {error.strerror}, allowed: a readable file"),)) from None
    if len(content) > MAX_BYTES:
        raise RecipeError(name, (Problem("recipe", _TOO_LONG),))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"found byte 0x{content[error.start]:02x}"
        raise RecipeError(name, (Problem("recipe", f"{found}, allowed: text in UTF-8", line),)) from None
    return read_text(text, name)


def read_text(text: str, name: str) -> Document:
    """Read the text of a recipe, or of one value of it.

    Raises:
        RecipeError: the text is no YAML document at all. Lesser problems are kept in the document.
    """
    document = Document()
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False  # every anchor is refused below
    try:
        node = yaml.compose(text)
    except RecursionError:
        raise RecipeError(name, (Problem("recipe", TOO_DEEP),)) from None
    except MarkedYAMLError as error:
        raise RecipeError(name, (_syntax_problem(error),)) from None
    except YAMLError as error:
        raise RecipeError(name, (Problem("recipe", f"found invalid YAML: {' '.join(str(error).split())}"),)) from None
    if node is not None:
        document.data = _value(node, (), document)
    return document


def _syntax_problem(error: MarkedYAMLError) -> Problem:
    """Return ruamel's message as one line, with advice about tabs, the most common cause."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    said = ", ".join(part for part in (error.context, error.problem) if part)
    advice = "indent with spaces, not tabs" if "\\t" in said else "valid YAML"
    return Problem("recipe", f"found invalid YAML ({said}), allowed: {advice}", line)


def _value(node: Node, place: Place, document: Document) -> Any:  # noqa: ANN401
    """Return the plain value of a node; lines and problems go into the document."""
    line = node.start_mark.line + 1
    document.lines.setdefault(place, line)
    if node.anchor or node.tag not in PLAIN:
        tag = str(node.tag).replace(_TAG, "!!")
        found = f"an anchor, &{node.anchor}" if node.anchor else f"a tag, {tag}"
        document.refuse(place, line, f"found {found}, allowed: plain values, written out in each place")
        return None
    if len(place) > MAX_DEPTH:
        document.refuse(place[:1], line, TOO_DEEP)
        return None
    if isinstance(node, MappingNode):
        return _mapping(node, place, document)
    if isinstance(node, SequenceNode):
        return [_value(child, (*place, index), document) for index, child in enumerate(node.value)]
    return _scalar(node, place, document) if isinstance(node, ScalarNode) else None


def _mapping(node: MappingNode, place: Place, document: Document) -> dict[str, Any]:
    """Return a mapping; a key that appears twice has its first value, and a problem that names both lines."""
    values: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode) or key.tag != _TAG + "str":
            merge = isinstance(key, ScalarNode) and key.tag == _TAG + "merge"
            found = "found a merge key <<" if merge else f"found {_source(key)} as a key"
            problem = Problem(dotted_place(place), f"{found}, allowed: keys of plain text", line)
            document.problems[*place, f"line {line}"] = problem
        elif key.value in values:
            first = document.lines[*place, key.value]
            message = f"found again, first in line {first}, allowed: once"
            document.problems[*place, key.value, f"line {line}"] = Problem(
                dotted_place((*place, key.value)), message, line
            )
        else:
            document.lines[*place, key.value] = line
            values[key.value] = _value(value, (*place, key.value), document)
    return values


def _source(node: Node) -> str:
    return node.value if isinstance(node, ScalarNode) else "a list or a mapping"


def _scalar(node: ScalarNode, place: Place, document: Document) -> str | float | bool | None:
    """Return text, a number, true or false, or None; a date stays text."""
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        document.refuse(place, node.start_mark.line + 1, "found half of a surrogate pair, allowed: text")
        return ""
    if node.tag == _TAG + "null":
        return None
    if node.tag == _TAG + "bool":
        return text.lower() == "true"
    if node.tag not in {_TAG + "int", _TAG + "float"}:
        return text
    try:
        number = _integer(text) if node.tag == _TAG + "int" else _real(text)
    except ValueError:  # more digits than Python reads
        number = math.inf
    if allowed := refusal(number):
        document.refuse(place, node.start_mark.line + 1, f"found {text:.40}, allowed: {allowed}")
        return 0  # a number, so that nothing is said to be missing
    return number


def refusal(number: float) -> str:
    """Return what is allowed instead of an infinite number or NaN, or an integer beyond 64 bits; else nothing."""
    if isinstance(number, int):
        return "" if abs(number) <= LARGEST else f"an integer of 64 bits, at most {LARGEST}"
    return "" if math.isfinite(number) else "a finite number"


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0 if digits.lstrip("+-")[:2] in {"0x", "0o", "0b"} else 10)


def _real(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
