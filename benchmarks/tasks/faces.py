"""How far compressed networks of MTCNN are from their own FP32 originals. No boxes of faces are known here.

Images come with scikit-image (`pip install --no-deps scikit-image`): crops of its photographs, and 100 faces in grey of
25 pixels (a part of Labeled Faces in the Wild), enlarged alone for `rnet` and `onet`, put on crops for `pnet`.
Photographs and faces of the three splits are different ones. The target of a sample is what the original says of it,
so the original's own score is perfect. Weights: `pip install --no-deps facenet-pytorch`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Outputs = dict[str, NDArray[Any]]

#: Sides of inputs, and the probability from which on the cascade goes on with a window.
SIDES = {"pnet": 96, "rnet": 24, "onet": 48}
THRESHOLDS = {"pnet": 0.6, "rnet": 0.7, "onet": 0.7}
PHOTOGRAPHS = {
    "train": ("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "brick.png", "coins.png"),
    "validation": ("camera.png", "gravel.png", "retina.jpg"),
    "test": ("astronaut.png", "grass.png", "moon.png", "color.png"),
}
FACES = {"train": range(60), "validation": range(60, 75), "test": range(75, 100)}
COUNTS = {"train": 2000, "validation": 400, "test": 1000}
LARGEST_CROP = 200


class SameFaces:
    """F1 of the windows that are told to be faces, against those of the original."""

    name = "F1 to FP32"

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def statistic(self, prediction: NDArray[Any], target: NDArray[Any]) -> tuple[int, int]:
        """Return windows that both take for a face, and those that either does, each counted."""
        found, wanted = (rows[:, 0] >= self.threshold for rows in (prediction, target))
        return int((found & wanted).sum()), int(found.sum() + wanted.sum())

    def compute(self, statistics: Sequence[tuple[int, int]]) -> float:
        """Return the score of all samples."""
        both, either = np.sum(statistics, axis=0)
        return float(2 * both / either) if either else 1.0


class OffsetError:
    """The mean difference of edges and landmarks where the original sees a face, in hundredths of the window's side."""

    name, unit, range, higher_is_better = "offsets", "% of side", (0.0, float("inf")), False

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def statistic(self, prediction: NDArray[Any], target: NDArray[Any]) -> tuple[float, int]:
        """Return the sum of differences, and of how many numbers."""
        seen = target[:, 0] >= self.threshold
        return float(np.abs(prediction[seen, 1:] - target[seen, 1:]).sum()), int(seen.sum() * (target.shape[1] - 1))

    def compute(self, statistics: Sequence[tuple[float, int]]) -> float:
        """Return the mean over all numbers."""
        total, count = np.sum(statistics, axis=0)
        return 100 * float(total / count) if count else 0.0


class Agreement:
    """The task: samples with what the original says of them."""

    name = "agreement with MTCNN"

    def __init__(self, network: str) -> None:
        self.network, self.side = network, SIDES[network]
        self.metrics = (SameFaces(THRESHOLDS[network]), OffsetError(THRESHOLDS[network]))
        self.output_names = ("logits", "box") if network != "onet" else ("logits", "box", "landmarks")

    def preprocess(self, raw: NDArray[Any]) -> Outputs:
        """Return an image uint8 [3, H, W] as the networks take it."""
        return {"image": (raw.astype(np.float32) - 127.5) / 128}

    def decode(self, outputs: Outputs) -> NDArray[Any]:
        """Return a row for each window: the probability of a face, edges, and landmarks [windows, 5 or 15]."""
        logits, *others = (np.asarray(outputs[name], dtype=np.float64) for name in self.output_names)
        face = 1 / (1 + np.exp(np.clip(logits[0] - logits[1], -60, 60)))
        return np.concatenate([face.reshape(1, -1), *(each.reshape(len(each), -1) for each in others)]).T

    def show(self, prediction: NDArray[Any], raw: object = None, classes: object = ()) -> str:  # noqa: ARG002 - as all tasks
        """Return how many windows hold a face."""
        return f"{int((prediction[:, 0] >= THRESHOLDS[self.network]).sum())} of {len(prediction)} windows: face"

    def eval_samples(self, split: str) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
        """Yield an id, an image uint8 [3, S, S], and the original's rows."""
        images = drawn(split, self.side, alone=self.network != "pnet")
        said = self._original(images)
        for place, image in enumerate(images):
            yield f"{split} {place}", image, self.decode({name: each[place] for name, each in said.items()})

    def train_batches(self, split: str, seed: int, epoch: int) -> list[tuple[Any, Any]]:
        """Return batches of images, and what the original says of them."""
        import torch

        images = drawn(split, self.side, alone=self.network != "pnet")
        said = self._original(images)
        ready = torch.from_numpy(np.stack([self.preprocess(each)["image"] for each in images]))
        order = np.random.default_rng((seed, epoch)).permutation(len(images))
        parts = np.array_split(order, len(images) // 50)
        return [(ready[part], {name: torch.from_numpy(each[part]) for name, each in said.items()}) for part in parts]

    def loss(self, outputs: Any, target: Any) -> Any:  # noqa: ANN401 - torch
        """Return the mean squared difference of all outputs, those of boxes and landmarks counted tenfold."""
        weights = {"logits": 1.0, "box": 10.0, "landmarks": 10.0}
        return sum(weights[name] * (outputs[name] - each).square().mean() for name, each in target.items())

    def _original(self, images: NDArray[Any]) -> Outputs:
        """Return the outputs of the FP32 network for images [N, 3, S, S]."""
        import torch

        file = Path(__file__).parents[2] / "models" / "mtcnn" / "model.py"
        model = run_path(str(file))["build"](self.network, pretrained=True).eval()
        ready = torch.from_numpy(np.stack([self.preprocess(each)["image"] for each in images]))
        with torch.no_grad():
            parts = [model(part) for part in ready.split(200)]
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in self.output_names}


def drawn(split: str, side: int, *, alone: bool) -> NDArray[np.uint8]:
    """Return images [N, 3, side, side]: crops of photographs; half of them are a face, or have faces put on them."""
    from PIL import Image

    found = find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        message = "scikit-image is not installed: pip install --no-deps scikit-image"
        raise ModuleNotFoundError(message)
    folder = Path(found.submodule_search_locations[0]) / "data"
    photographs = [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS[split]]
    faces = (255 * np.load(folder / "lfw_subset.npy")[FACES[split]]).astype(np.uint8)
    random = np.random.default_rng([*PHOTOGRAPHS].index(split))
    made = [_one(random, photographs, faces, side, alone=alone) for _ in range(COUNTS[split])]
    return np.stack(made).transpose(0, 3, 1, 2).copy()


def _one(random: Any, photographs: list[Any], faces: NDArray[Any], side: int, *, alone: bool) -> NDArray[Any]:  # noqa: ANN401
    """Return an image [side, side, 3]."""
    from PIL import Image

    def face(length: int) -> Any:  # noqa: ANN401 - an image
        margin = random.integers(0, 4, 2)
        cut = faces[random.integers(len(faces))][margin[0] : 25 - margin[1], margin[0] : 25 - margin[1]]
        return Image.fromarray(cut).convert("RGB").resize((length, length), Image.Resampling.BICUBIC)

    if alone and random.random() < 0.5:  # noqa: PLR2004 - half
        return np.asarray(face(side))
    photograph = photographs[random.integers(len(photographs))]
    length = int(random.integers(side // 2, min(LARGEST_CROP, *photograph.size) + 1))
    left, top = (int(random.integers(each - length + 1)) for each in photograph.size)
    image = photograph.crop((left, top, left + length, top + length)).resize((side, side), Image.Resampling.BILINEAR)
    for _ in range(0 if alone else int(random.integers(0, 4))):
        length = int(random.integers(12, 33))
        image.paste(face(length), tuple(int(each) for each in random.integers(0, side - length + 1, 2)))
    return np.asarray(image)


def task(network: str = "pnet") -> Agreement:
    """Return the task for one of the three networks."""
    return Agreement(network)
