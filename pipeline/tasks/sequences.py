"""Sequences of labels: greedy CTC, edits between two, spans in the BIO scheme. numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray


def greedy_ctc(labels_T: NDArray[Any], blank: int) -> list[int]:
    """Return the labels of a path: repeated ones once, without blanks (Graves et al. 2006, best path decoding)."""
    labels = np.asarray(labels_T)
    starts = np.append(True, labels[1:] != labels[:-1]) if len(labels) else np.zeros(0, bool)
    return [int(each) for each in labels[starts & (labels != blank)]]


def edit_distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Return how many insertions, deletions and replacements turn one sequence into the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for place, left in enumerate(one, 1):
        before, row[0] = row[0], place
        for column, right in enumerate(other, 1):
            cost = min(row[column] + 1, row[column - 1] + 1, before + (left != right))
            before, row[column] = row[column], cost
    return row[-1]


def bio_spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the spans (kind, first, last) of tags such as B-PER, I-PER and O.

    An I that follows no tag of its kind begins a span, as the CoNLL script and seqeval have it.
    """
    spans, kind, first = set(), "", 0
    for place, tag in enumerate([*tags, "O"]):
        head, _, found = tag.partition("-")
        if kind and (head != "I" or found != kind):
            spans.add((kind, first, place - 1))
            kind = ""
        if head in ("B", "I") and not kind:
            kind, first = found, place
    return spans
