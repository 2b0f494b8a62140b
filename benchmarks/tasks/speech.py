"""Words that espeak-ng speaks (Debian package `espeak-ng`), with other voices for each split: synthetic speech.

Clips are made once, which takes minutes, and kept in the cache folder. They are clean: `keywords.py` adds noise.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from logmel import RATE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE = "unknown", "silence"
CLASSES = (*WORDS, UNKNOWN, SILENCE)
OTHERS = tuple(
    "bed bird cat dog eight five four happy house learn marvin nine one seven sheila six three tree two wow zero "
    "backward follow forward visual".split()
)
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
#: Voices of espeak-ng, each in one split.
VOICES = {
    "train": (
        "Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco Mario f1 f2 m1 m2 m3 m4 adam "
        "anika announcer antonio aunty belinda benjamin boris caleb david ed edward grandma gustave iven john klatt "
        "klatt2 linda marcelo"
    ).split(),
    "validation": "Michael f3 m5 iven2 klatt3 max norbert pablo paul steph".split(),
    "test": "Mike Nguyen f4 f5 m6 m7 m8 iven3 klatt4 michel miguel pedro quincy rob robert sandro shelby steph2 "
    "travis victor zac".split(),
}
CLIPS = {"train": 4200, "validation": 1200, "test": 2400}
#: Where a clip is cut: samples below this share of its peak are silence.
QUIET = 0.02


class Utterance(NamedTuple):
    """What is said, and how: a voice and an accent, words a minute, and pitch from 0 to 99."""

    word: str
    voice: str
    rate: int
    pitch: int


def clips_of(split: str, cache: Path) -> tuple[NDArray[np.int16], list[int]]:
    """Return a split's clips, int16 [N, 16000], and the class of each; made if the cache has none of them."""
    plan = planned(split)
    folder = cache / f"{split}-{hashlib.sha256(json.dumps([plan, _version()]).encode()).hexdigest()[:16]}"
    file = folder.with_suffix(".npy")
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            made = np.stack(list(pool.map(spoken, plan)))
        whole = folder.with_suffix(".part.npy")
        np.save(whole, made)
        whole.replace(file)
    return np.load(file), [_class_of(each.word) for each in plan]


def planned(split: str) -> list[Utterance]:
    """Return what a split has: each class as often as the others, each voice about as often as the others."""
    generator = np.random.default_rng([*CLIPS].index(split))
    said = [_word(place, generator) for place in range(CLIPS[split])]
    return [
        Utterance(
            word,
            f"{generator.choice(ACCENTS)}+{generator.choice(VOICES[split])}",
            int(generator.integers(110, 220)),
            int(generator.integers(20, 80)),
        )
        for word in said
    ]


def spoken(utterance: Utterance) -> NDArray[np.int16]:
    """Return one second, int16 [16000], with the word in its middle; zeros for silence."""
    sound = np.zeros(RATE)
    if utterance.word == SILENCE:
        return sound.astype(np.int16)
    how = ["-v", utterance.voice, "-s", str(utterance.rate), "-p", str(utterance.pitch)]
    made = subprocess.run([_program(), *how, "--stdout", utterance.word], capture_output=True, check=True).stdout  # noqa: S603 - our own words
    with wave.open(io.BytesIO(made)) as file:
        rate, samples = file.getframerate(), np.frombuffer(made[44:], dtype="<i2").astype(np.float64)
    word = _resampled(_trimmed(samples), rate)[:RATE]
    start = (RATE - len(word)) // 2
    sound[start : start + len(word)] = word * (20_000 / max(1.0, np.abs(word).max()))
    return sound.round().astype(np.int16)


def _word(place: int, generator: np.random.Generator) -> str:
    name = CLASSES[place % len(CLASSES)]
    return str(generator.choice(OTHERS)) if name == UNKNOWN else name


def _class_of(word: str) -> int:
    return CLASSES.index(word if word in CLASSES else UNKNOWN)


def _trimmed(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def _resampled(samples: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """Return the sound at RATE: its spectrum without what is above half of that."""
    length = round(len(samples) * RATE / rate)
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return np.asarray(np.fft.irfft(spectrum, length) * length / len(samples))


def _program() -> str:
    found = shutil.which("espeak-ng")
    if found is None:
        message = "espeak-ng is not installed: apt-get install espeak-ng"
        raise FileNotFoundError(message)
    return found


def _version() -> str:
    return subprocess.run([_program(), "--version"], capture_output=True, check=True, text=True).stdout  # noqa: S603 - no input
