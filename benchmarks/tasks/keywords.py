"""Ten spoken words, other words and silence, in noise: what a network on a microphone decides. Speech is synthetic.

A raw sample is a second of sound, as a microphone gives it; `preprocess` is the same here and in a bundle.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from logmel import RATE, log_mel
from speech import CLASSES, clips_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

BATCH, SHIFT = 64, 1600
#: Seconds of noise that an epoch has; clips take them from different starts on.
NOISES = 64
#: Loudness of noise below that of the word in dB, from and to; slopes of its spectrum, from white to brown.
NOISE, SLOPES = (0.0, 25.0), (0.0, 2.0)


class Accuracy:
    """The share of sounds whose class is right."""

    name = "accuracy"

    def statistic(self, prediction: int, target: int) -> float:
        """Return 1 for a right answer, else 0."""
        return float(prediction == target)


class Keywords:
    """Sounds, their features, what the network's answer means, and how it learns."""

    name, classes, licence = "keywords of espeak-ng", CLASSES, "made by espeak-ng; no recordings"
    metrics = (Accuracy(),)

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def eval_samples(self, split: str) -> Iterator[tuple[str, NDArray[np.float32], int]]:
        """Yield sounds in noise, the same at each call."""
        clips, labels = clips_of(split, self._cache)
        for place, (clip, label) in enumerate(zip(clips, labels, strict=True)):
            generator = np.random.default_rng((place, *split.encode()))
            yield f"{split} {place}", in_noise(clip, noise_of(generator), generator), label

    def preprocess(self, raw: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return features [1, 49, 20] of one second of sound."""
        return {"features": log_mel(raw)[None]}

    def decode(self, outputs: Mapping[str, NDArray[np.float32]]) -> int:
        """Return the class with the largest logit."""
        return int(next(iter(outputs.values())).argmax())

    def show(self, prediction: int, raw: object = None, classes: Sequence[str] = ()) -> str:  # noqa: ARG002 - as called
        """Return the word."""
        return CLASSES[prediction]

    def train_batches(self, split: str, seed: int, epoch: int) -> Iterator[tuple[Any, Any]]:
        """Yield batches in noise and at places that differ in each epoch."""
        import torch

        clips, labels = clips_of(split, self._cache)
        generator = np.random.default_rng((seed, epoch))
        noises = [noise_of(generator) for _ in range(NOISES)]
        for chosen in np.array_split(generator.permutation(len(clips)), len(clips) // BATCH):
            sounds = [self._changed(clips[place], noises, generator) for place in chosen]
            features = np.stack([log_mel(each)[None] for each in sounds])
            yield torch.from_numpy(features), torch.tensor([labels[place] for place in chosen])

    @staticmethod
    def _changed(
        clip: NDArray[np.int16], noises: list[NDArray[np.float32]], generator: np.random.Generator
    ) -> NDArray[np.float32]:
        noise = np.roll(noises[generator.integers(len(noises))], generator.integers(RATE))
        return in_noise(np.roll(clip, generator.integers(-SHIFT, SHIFT + 1)), noise, generator)

    def loss(self, outputs: Any, target: Any) -> Any:  # noqa: ANN401 - tensors of torch
        """Return the cross entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, target)

    def distance(self, student: Any, teacher: Any) -> Any:  # noqa: ANN401 - tensors of torch
        """Return how far shares of classes are from the teacher's, at temperature 2 (Hinton et al. 2015)."""
        from torch.nn.functional import kl_div

        near, wanted = ((each / 2).log_softmax(dim=1) for each in (student, teacher))
        return 4 * kl_div(near, wanted, log_target=True, reduction="batchmean")


def in_noise(
    clip: NDArray[np.int16], noise: NDArray[np.float32], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return a clip from -1 to 1 at a random loudness, with noise of mean power 1 at a random loudness below it."""
    sound = clip * np.float32(generator.uniform(0.2, 1.0) / 2**15)
    loudness = np.sqrt((sound**2).mean()) or generator.uniform(0.001, 0.05)
    scale = loudness * 10 ** (-generator.uniform(*NOISE) / 20)
    return np.clip(sound + noise * np.float32(scale), -1, 1)


def noise_of(generator: np.random.Generator) -> NDArray[np.float32]:
    """Return a second of noise of mean power 1, and of a random colour."""
    spectrum = np.fft.rfft(generator.standard_normal(RATE))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (generator.uniform(*SLOPES) / 2)
    noise = np.fft.irfft(spectrum, RATE)
    return (noise / np.sqrt((noise**2).mean())).astype(np.float32)


def task(cache: str = "") -> Keywords:
    """Return the task; clips are kept in `cache`, else in ~/.cache/secateur/keywords."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur" / "keywords"
    return Keywords(Path(cache) if cache else home)
