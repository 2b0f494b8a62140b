"""Images with the outputs that the shipped files gave here: with them a device finds that it computes the same.

Images of the validation split are taken where the data's licence lets anyone pass them on. Otherwise images are drawn:
smooth noise of several scales in the brightness and contrast of the data, from which no image can be brought back. Of
more images than are needed those are taken on which the network is most certain, so that a device that answers with
another class computes something else. They prove the computation, not the accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pipeline.bundle.json_text import json_text
from pipeline.bundle.licences import data_licence
from pipeline.bundle.on_device.infer import Network, load_preprocessing, normalise, read_image
from pipeline.bundle.tolerance import is_exact, tolerance
from pipeline.core.errors import StageError
from pipeline.core.store import read_artifact

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.bundle.content import Content
    from pipeline.core.dataset import Dataset
    from pipeline.core.stage import Runtime

    Images = NDArray[np.uint8]

SCHEMA_VERSION = 1
FOLDER, EXPECTED_FILE = "samples", "expected.json"
#: Licences (SPDX) under which anyone may pass images on, for any purpose.
_FREE_LICENCES = frozenset(
    """0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause CC-BY-2.0 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0
    CDLA-Permissive-1.0 CDLA-Permissive-2.0 ISC MIT ODC-By-1.0 PDDL-1.0 Unlicense Zlib""".split()
)
#: Drawn images are nobody's work.
DRAWN_LICENCE = "CC0-1.0"
#: Images that are looked at for each one that is taken, and at least.
CANDIDATES, CANDIDATES_AT_LEAST = 6, 48
#: Training images, at most, whose brightness and contrast drawn ones have.
_IMAGES_MEASURED = 1000
#: How much more drawn images differ in brightness and contrast than images of the data do.
SPREAD = 1.5


@dataclass(frozen=True)
class SampleCandidates:
    """Images uint8 [N, C, H, W] from which samples are chosen, their class names (None: drawn), and their licence."""

    images: Images
    labels: tuple[str | None, ...]
    licence: str


def write_samples(content: Content, folder: Path) -> None:
    """Write samples/*.png, and samples/expected.json with the outputs of every runtime on one thread.

    Raises:
        StageError: an output is not finite.
    """
    networks = {runtime: Network(folder, runtime, threads=1) for runtime in content.files}
    preprocessing = load_preprocessing(folder)
    found = candidates(content)
    answers = networks[content.runtime].logits(normalise(found.images, preprocessing))
    chosen = choose(answers, found.labels, content.options.samples)
    if len(chosen) < content.options.samples:
        content.progress.note(f"bundle: {len(chosen)} samples, because there are no more validation images")
    (folder / FOLDER).mkdir(exist_ok=True)
    digits = len(str(len(chosen) - 1))
    files = [f"{FOLDER}/{place:0{digits}d}.png" for place in range(len(chosen))]
    for file, index in zip(files, chosen, strict=True):
        write_png(found.images[index], folder / file)
    images = np.stack([read_image(folder / file, preprocessing) for file in files])
    outputs = {runtime: network.logits(normalise(images, preprocessing)) for runtime, network in networks.items()}
    samples = [
        {
            "file": file,
            "label": found.labels[index],
            "licence": found.licence,
            "outputs": {runtime: outputs[runtime][place].tolist() for runtime in outputs},
        }
        for place, (file, index) in enumerate(zip(files, chosen, strict=True))
    ]
    expected = {"schema_version": SCHEMA_VERSION, "samples": samples, **limits(content, outputs)}
    (folder / FOLDER / EXPECTED_FILE).write_text(json_text(expected), encoding="utf-8")


def candidates(content: Content) -> SampleCandidates:
    """Return the images that may become samples, as the options and the data's licence say."""
    licence, source = data_licence(content), content.options.sample_source
    count = max(CANDIDATES_AT_LEAST, CANDIDATES * content.options.samples)
    if source == "validation" or (source == "auto" and may_be_passed_on(licence)):
        split, classes = content.dataset.validation, content.dataset.classes
        order = by_turns(split.labels)[:count]
        return SampleCandidates(split.images[order], tuple(classes[label] for label in split.labels[order]), licence)
    return SampleCandidates(drawn(content.dataset, count), (None,) * count, DRAWN_LICENCE)


def may_be_passed_on(licence: str) -> bool:
    """Return whether a licence is known to let anyone pass images on."""
    return licence.casefold() in {name.casefold() for name in _FREE_LICENCES}


def by_turns(groups: NDArray[np.int64]) -> list[int]:
    """Return all positions such that groups take turns: the first of each, then the second of each, and so on."""
    turn = np.zeros(len(groups), np.int64)
    for group in np.unique(groups):
        members = groups == group
        turn[members] = np.arange(members.sum())
    return [int(place) for place in np.argsort(turn, kind="stable")]


def choose(answers: NDArray[np.float32], labels: tuple[str | None, ...], count: int) -> list[int]:
    """Return the positions of the samples: classes take turns, and of each class the most certain come first.

    A drawn image counts for the class that the network takes it for.
    """
    if not np.isfinite(answers).all():
        raise StageError("the exported file gives outputs that are not finite; no bundle is made from it")
    # answers [N, classes]; margin [N] between the two largest; positions [N], the most certain first
    ordered = np.sort(answers, axis=1)
    margins = ordered[:, -1] - ordered[:, -2] if answers.shape[1] > 1 else ordered[:, -1]
    certain = np.argsort(-margins, kind="stable")
    taken = answers.argmax(axis=1)
    names = np.array([str(label) if label is not None else str(taken[place]) for place, label in enumerate(labels)])
    groups = np.unique(names, return_inverse=True)[1]
    return [int(certain[place]) for place in by_turns(groups[certain])[:count]]


def drawn(data: Dataset, count: int) -> Images:
    """Return made images in the brightness and contrast of the training images, which vary from image to image."""
    return drawn_like(data.train.images[:: -(-len(data.train) // _IMAGES_MEASURED)], count)


def drawn_like(images: Images, count: int) -> Images:
    """Return made images in the brightness and contrast of these, uint8 [N, C, H, W]."""
    # some [N, C, H, W]; brightness and contrast [N, C, 1, 1]; level and spread of one drawn image [C, 1, 1]
    some = images.astype(np.float32)
    brightness, contrast = some.mean(axis=(2, 3), keepdims=True), some.std(axis=(2, 3), keepdims=True)
    made = np.empty((count, *some.shape[1:]), np.uint8)
    for seed in range(count):
        generator = np.random.default_rng(seed)
        level, spread = (
            np.abs(values.mean(axis=0) + SPREAD * generator.normal() * values.std(axis=0))
            for values in (brightness, contrast)
        )
        field = _field(generator, some.shape[1:])
        made[seed] = np.clip(np.rint(level + spread * field), 0, 255)
    return made


def _field(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return noise [C, H, W] of mean 0 and deviation 1: patches and streaks of several scales in a random mix."""
    channels, height, width = shape
    total = np.zeros(shape, np.float32)
    for scale in range(1, max(height, width).bit_length()):
        rows, columns = (2 ** int(generator.integers(1, scale + 1)) for _ in range(2))
        weight, common = generator.normal(), generator.normal(size=(1, rows, columns))
        # common [1, rows, columns] is shared by all channels: coarse [C, rows, columns] is correlated as colours are
        coarse = (common + 0.5 * generator.normal(size=(channels, rows, columns))).astype(np.float32)
        for channel, plane in enumerate(coarse):
            smooth = Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)
            total[channel] += weight * np.asarray(smooth)
    field: NDArray[np.float32] = (total - total.mean()) / max(float(total.std()), 1e-6)
    return field


def write_png(image_CHW: Images, file: Path) -> None:
    """Write pixels as PNG, grey or colour, with nothing else in the file."""
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, optimize=True)


def limits(content: Content, outputs: Mapping[Runtime, NDArray[np.float32]]) -> dict[str, Any]:
    """Return by runtime how far outputs may be from those expected, and whether they must be the same."""
    lineages = {runtime: read_artifact(file.parent).lineage for runtime, file in content.files.items()}
    allowed = {runtime: tolerance(lineages[runtime], runtime, values) for runtime, values in outputs.items()}
    return {
        "tolerance": {runtime: {"max_abs": most, "why": why} for runtime, (most, why) in allowed.items()},
        "exact": {runtime: is_exact(lineages[runtime], runtime) for runtime in outputs},
    }
