"""Six novels of Jane Austen, in the public domain, from Debian's package r-cran-janeaustenr; R is not needed.

    apt-get download r-cran-janeaustenr && dpkg-deb --extract r-cran-janeaustenr_*.deb austen

unpacks it without installing anything, and `root` is then `austen`. The text is read where it lies; no copy is kept.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from itertools import pairwise
from pathlib import Path

NOVELS = ("Emma", "Mansfield Park", "Northanger Abbey", "Persuasion", "Pride and Prejudice", "Sense and Sensibility")
FOLDER = Path("usr/lib/R/site-library/janeaustenr/data")
#: Titles after which a full stop ends no sentence.
TITLES = r"(?<!\bMr)(?<!\bMrs)(?<!\bMiss)(?<!\bDr)(?<!\bSt)(?<!\bCapt)(?<!\bCol)(?<!\bEsq)"
SENTENCE_END = re.compile(TITLES + r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z])")
CHAPTER = re.compile(r"^\s*chapter\s+\w+\.?\s*$", re.IGNORECASE)
_STRING = struct.Struct(">ii")
#: How R writes: the place of a novel, two integers, in the index; a vector of texts; a text in UTF-8 or ASCII.
_PLACE, _TEXTS = b"\0\0\0\x0d\0\0\0\x02", b"\0\0\0\x10"


def read_novels(root: str = "") -> dict[str, list[list[str]]]:
    """Return, of each novel, its chapters as lists of paragraphs.

    Raises:
        FileNotFoundError: the package is not there.
    """
    data = Path(root or "/") / FOLDER
    if not data.is_dir():
        message = f"no {data}: get Debian's r-cran-janeaustenr as benchmarks/tasks/austen.py says"
        raise FileNotFoundError(message)
    index, text = _unpacked(data.joinpath("Rdata.rdx").read_bytes()), data.joinpath("Rdata.rdb").read_bytes()
    places = [_STRING.unpack_from(index, found.end()) for found in re.finditer(re.escape(_PLACE), index)]
    lines = [_texts(zlib.decompress(text[start + 4 : start + length])) for start, length in places]
    return {novel: _chapters(each) for novel, each in zip(NOVELS, lines, strict=True)}


def sentences_of(paragraph: str) -> list[str]:
    """Return the sentences of a paragraph."""
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(paragraph)), len(paragraph)]
    return [paragraph[start:end].strip() for start, end in pairwise(ends) if start < end]


def _unpacked(packed: bytes) -> bytes:
    """Return what is packed by gzip, within it perhaps by zlib."""
    inner = gzip.decompress(packed)
    return inner if inner.startswith(b"X\n") else zlib.decompress(inner)


def _texts(stored: bytes) -> list[str]:
    """Return the texts of a vector of texts as R serialises it: its length, then flags, length and bytes of each."""
    place = stored.index(_TEXTS) + len(_TEXTS)
    (count,) = struct.unpack_from(">i", stored, place)
    place, found = place + 4, []
    for _ in range(count):
        _, length = _STRING.unpack_from(stored, place)
        place += _STRING.size
        found.append(stored[place : place + max(length, 0)].decode())
        place += max(length, 0)
    return found


def _chapters(lines: list[str]) -> list[list[str]]:
    """Return the paragraphs of each chapter, without what comes before the first one."""
    chapters: list[list[str]] = []
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if CHAPTER.match(line):
            chapters.append([])
        elif line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            if chapters:
                chapters[-1].append(" ".join(paragraph))
            paragraph = []
    return chapters
