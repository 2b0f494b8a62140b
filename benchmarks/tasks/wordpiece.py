"""Text to the numbers of pieces of words, as BERT's lower-case vocabularies want it (Devlin et al. 2019)."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tokens = tuple[NDArray[np.int64], NDArray[np.int64]]

#: Words that are longer are unknown.
LONGEST = 100


class WordPiece:
    """Words in lower case without accents, cut into the longest pieces that the vocabulary has.

    Good for alphabets: BERT also sets Chinese characters apart, which is left out here.
    """

    def __init__(self, vocabulary: Path) -> None:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self._numbers = {word: number for number, word in enumerate(words)}
        self._pieces_of = lru_cache(maxsize=None)(self._cut)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's pieces, without those that stand at its start and end."""
        letters = (each for each in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(each) != "Mn")
        apart = "".join(f" {each} " if _is_punctuation(each) else each for each in letters)
        return [number for word in apart.split() for number in self._pieces_of(word)]

    def batch(self, texts: Sequence[str], length: int) -> Tokens:
        """Return ids and masks [N, length] of texts between [CLS] and [SEP]; what is longer is cut off."""
        ids, mask = (np.zeros((len(texts), length), dtype=np.int64) for _ in range(2))
        first, last = self._numbers["[CLS]"], self._numbers["[SEP]"]
        for row, text in enumerate(texts):
            whole = [first, *self.encode(text)[: length - 2], last]
            ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
        return ids, mask

    def _cut(self, word: str) -> tuple[int, ...]:
        found: list[int] = []
        start = 0
        while start < len(word) <= LONGEST:
            ends = range(len(word), start, -1)
            pieces = ((end, ("##" if start else "") + word[start:end]) for end in ends)
            end, piece = next(((end, piece) for end, piece in pieces if piece in self._numbers), (0, ""))
            if not piece:
                break
            found.append(self._numbers[piece])
            start = end
        return tuple(found) if start == len(word) else (self._numbers["[UNK]"],)


def _is_punctuation(letter: str) -> bool:
    """Say whether a character is a word of its own: ASCII's signs, and what Unicode calls punctuation."""
    return (letter.isascii() and letter.isprintable() and not letter.isalnum() and letter != " ") or (
        unicodedata.category(letter).startswith("P")
    )
