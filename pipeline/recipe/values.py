"""Reads a recipe given as Python values into the plain values that YAML would have given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pipeline.recipe.problems import SHOWN
from pipeline.recipe.yaml import MAX_DEPTH, TOO_DEEP, Document, refusal

if TYPE_CHECKING:
    from pipeline.recipe.yaml import Place

#: What stands in place of a file's name where there is no file.
VALUES = "Python values"
ALLOWED = "text, paths, numbers, true or false, nothing, lists and mappings"


def read_values(values: object) -> Document:
    """Return the values of a recipe as a document without lines: tuples are lists, and paths are text."""
    document = Document(first_line=None)
    document.data = _plain(values, (), document)
    return document


def _plain(value: object, place: Place, document: Document) -> Any:  # noqa: ANN401
    """Return a value as YAML would give it; what YAML does not have goes into the document's problems."""
    if len(place) > MAX_DEPTH:
        document.refuse(place[:1], None, TOO_DEEP)
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                document.refuse(place, None, f"found {_shown(key)} as a key, allowed: keys of plain text")
        return {key: _plain(item, (*place, key), document) for key, item in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [_plain(item, (*place, index), document) for index, item in enumerate(value)]
    return _scalar(value, place, document)


def _scalar(value: object, place: Place, document: Document) -> str | float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | PurePath):
        return _text(str(value), place, document)
    if not isinstance(value, Real):
        document.refuse(place, None, f"found {_shown(value)}, allowed: {ALLOWED}")
        return None
    try:
        number = int(value) if isinstance(value, Integral) else float(value)
    except OverflowError:  # a fraction beyond float
        number = math.inf
    if allowed := refusal(number):
        found = f"one of {number.bit_length()} bits" if isinstance(number, int) else str(number)
        document.refuse(place, None, f"found {found}, allowed: {allowed}")
        return 0  # a number, so that nothing is said to be missing
    return number


def _text(text: str, place: Place, document: Document) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        document.refuse(place, None, "found half of a surrogate pair, allowed: text")
        return ""
    return text


def _shown(value: object) -> str:
    try:
        return " ".join(repr(value).split())[:SHOWN]
    except Exception:  # noqa: BLE001 - a class of the caller's, or a number with more digits than Python writes
        return f"a {type(value).__name__}"
