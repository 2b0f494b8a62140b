"""Which of Jane Austen's six novels a sentence is from, for networks of text. `austen.py` says where they are.

Splits have chapters of their own. Names tell the novel at once; a sentence without any is hard to place.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from austen import read_novels, sentences_of

from pipeline.core.dataset import Arrays, Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Of ten chapters in turn, those of validation and of test; the others are train's.
VALIDATION, TEST, TURN = {4}, {2, 7}, 10
#: A word, perhaps with an apostrophe in it, or a sign.
WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?|[.,;:!?\"]|--")
SHORTEST = 6
PAD, UNKNOWN = 0, 1


def load(vocabulary: int = 2048, length: int = 48, root: str = "") -> Arrays:
    """Return ids and masks [N, length] of sentences, and the novels that they are from."""
    novels = read_novels(root)
    found: dict[str, list[tuple[list[str], int]]] = {"train": [], "validation": [], "test": []}
    for label, chapters in enumerate(novels.values()):
        for place, chapter in enumerate(chapters):
            turn = place % TURN
            split = "test" if turn in TEST else "validation" if turn in VALIDATION else "train"
            found[split] += [(words, label) for words in _sentences(chapter)]
    numbers = _numbers(found["train"], vocabulary)
    return Arrays(
        "sentences of Austen",
        **{split: _samples(each, numbers, length) for split, each in found.items()},
        classes=tuple(novels),
        notes=("novels of Jane Austen, in the public domain", "splits by chapters"),
    )


def _sentences(chapter: list[str]) -> Iterable[list[str]]:
    """Return the words of each sentence of a chapter that is long enough."""
    for sentence in (each for paragraph in chapter for each in sentences_of(paragraph)):
        words = WORDS.findall(sentence.lower())
        if len(words) >= SHORTEST:
            yield words


def _numbers(train: list[tuple[list[str], int]], vocabulary: int) -> dict[str, int]:
    """Return the numbers of the words that occur most."""
    counts = Counter(word for words, _ in train for word in words)
    known = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - 2]
    return {word: number for number, word in enumerate(known, start=2)}


def _samples(sentences: list[tuple[list[str], int]], numbers: Mapping[str, int], length: int) -> Samples:
    ids, mask = (np.full((len(sentences), length), PAD, dtype=np.int64) for _ in range(2))
    for row, (words, _) in enumerate(sentences):
        known = [numbers.get(word, UNKNOWN) for word in words[:length]]
        ids[row, : len(known)], mask[row, : len(known)] = known, 1
    return Samples({"ids": ids, "mask": mask}, np.array([label for _, label in sentences], dtype=np.int64))
