"""The data of benchmarks/tasks that is text or sound: read as stored, cut as BERT does, heard as bands of frequency."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.core.local_imports import ImportableFolder
from pipeline.core.user_code import import_file

if TYPE_CHECKING:
    from collections.abc import Sequence

DATA = Path(__file__).parents[3] / "benchmarks" / "tasks"


def opened(name: str) -> Any:  # noqa: ANN401 - a module
    """Return a module of benchmarks/tasks, which may import those beside it."""
    with ImportableFolder(DATA):
        return import_file(DATA / f"{name}.py", f"of_jobs_{name}")


def r_texts(texts: Sequence[str]) -> bytes:
    """Return texts as R serialises a vector of them, version 3."""
    head = b"X\n" + struct.pack(">iiii", 3, 0x040201, 0x030500, 5) + b"UTF-8"
    body = b"".join(struct.pack(">ii", 0x40009, len(each.encode())) + each.encode() for each in texts)
    return head + struct.pack(">ii", 16, len(texts)) + body


def test_novels_are_read_as_r_stores_them(tmp_path: Path) -> None:
    """Chapters hold paragraphs, joined from lines; what is before the first chapter is left out."""
    austen = opened("austen")
    folder = tmp_path / austen.FOLDER
    folder.mkdir(parents=True)
    lines = ["EMMA", "", "CHAPTER I", "", "It was É", "so. Then.", "", "Chapter 2", "Mr. Knightley"]
    stored, index = b"", r_texts(["names"])
    for _ in austen.NOVELS:
        packed = struct.pack(">i", len(r_texts(lines))) + zlib.compress(r_texts(lines))
        index += struct.pack(">iiii", 13, 2, len(stored), len(packed))
        stored += packed
    (folder / "Rdata.rdb").write_bytes(stored)
    (folder / "Rdata.rdx").write_bytes(gzip.compress(zlib.compress(index)))
    novels = austen.read_novels(str(tmp_path))
    assert list(novels) == [*austen.NOVELS]
    assert novels["Persuasion"] == [["It was É so. Then."], ["Mr. Knightley"]]
    with pytest.raises(FileNotFoundError, match="r-cran-janeaustenr"):
        austen.read_novels(str(tmp_path / "elsewhere"))


def test_sentences_end_where_they_do() -> None:
    """A title ends none, a quotation mark belongs to what it closes."""
    text = 'Mr. Elton came. "Who?" She said: "Mrs. Weston!" It was late...'
    assert opened("austen").sentences_of(text) == [
        "Mr. Elton came.",
        '"Who?"',
        'She said: "Mrs. Weston!"',
        "It was late...",
    ]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The unaffable!", ["the", "un", "##aff", "##able", "!"]),
        ("Thé  THE\t\u2014the", ["the", "the", "\u2014", "the"]),
        ("un_un £un", ["un", "_", "un", "[UNK]"]),
        ("unx " + "un" * 60, ["[UNK]", "[UNK]"]),
    ],
)
def test_words_are_cut_into_the_longest_pieces(tmp_path: Path, text: str, pieces: list[str]) -> None:
    """Accents and capitals go, signs stand alone (a pound sign is none to BERT), what cannot be cut is unknown."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "un", "##un", "##aff", "##able", "##a", "!", "_", "\u2014"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokens = opened("wordpiece").WordPiece(tmp_path / "vocab.txt")
    assert [words[number] for number in tokens.encode(text)] == pieces
    ids, mask = tokens.batch([text, ""], 4)
    assert [words[number] for number in ids[0][mask[0] > 0]] == ["[CLS]", *pieces[:2], "[SEP]"]
    assert ids[1].tolist() == [2, 3, 0, 0]


def test_a_tone_is_heard_in_its_band() -> None:
    """Higher tones in higher bands, in all frames; silence is the same everywhere."""
    features = opened("logmel")
    seconds = np.arange(features.RATE) / features.RATE
    loudest = [
        features.log_mel(np.sin(2 * np.pi * hertz * seconds).astype(np.float32)).argmax(axis=1)
        for hertz in (150, 500, 1500, 5000)
    ]
    assert all(len(set(bands)) == 1 and len(bands) == 49 for bands in loudest)
    assert np.all(np.diff([bands[0] for bands in loudest]) > 1)
    assert np.ptp(features.log_mel(np.zeros(features.RATE, dtype=np.float32))) == 0


def test_voices_and_sounds_of_the_splits_are_disjoint() -> None:
    """No voice is in two splits, classes are as many each, and noise is never louder than the word."""
    speech, keywords = opened("speech"), opened("keywords")
    voices = [set(each) for each in speech.VOICES.values()]
    assert sum(map(len, voices)) == len(set.union(*voices))
    labels = [speech._class_of(each.word) for each in speech.planned("validation")]
    assert set(np.bincount(labels)) == {100}
    generator = np.random.default_rng(0)
    clip = (8000 * np.sin(np.arange(speech.RATE))).astype(np.int16)
    quiet = np.zeros(speech.RATE, dtype=np.float32)
    for _ in range(5):
        noise, state = keywords.noise_of(generator), generator.bit_generator.state
        noisy = keywords.in_noise(clip, noise, generator)
        generator.bit_generator.state = state
        clean = keywords.in_noise(clip, quiet, generator)
        assert ((noisy - clean) ** 2).mean() <= 1.001 * (clean**2).mean()
