r"""Text from outside, made harmless at the edges: names of files, layers and classes may hold anything.

What a terminal would obey, what turns text around, and what XML cannot hold is written as an escape such as \x1b.
"""

from __future__ import annotations

import json
import unicodedata

#: Control characters, halves of pairs, and separators of lines and paragraphs.
REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: Joiners of letters: the only invisible signs that names are written with.
_JOINERS = "\u200c\u200d"
_NONCHARACTER = 0xFFFE


def printable_text(text: str, *, keep: str = "\n\t") -> str:
    """Return text with every harmful character but those in `keep` as Python would write it in a string."""
    if text.isprintable():
        return text
    return "".join(each if each in keep or _harmless(each) else each.encode("unicode_escape").decode() for each in text)


def printable_json(text: str) -> str:
    """Return JSON with every harmful character within its strings as JSON's own escape."""
    if text.isprintable():
        return text
    return "".join(
        each if each in "\n\t" or _harmless(each) else json.dumps(each, allow_nan=False)[1:-1] for each in text
    )


def _harmless(letter: str) -> bool:
    if letter.isprintable() or letter in _JOINERS:
        return True
    kind = unicodedata.category(letter)
    return kind not in REFUSED and kind != "Cf" and ord(letter) & _NONCHARACTER != _NONCHARACTER
