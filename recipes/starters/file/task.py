"""A task of your own, all of it: where a spot is in an image. Replace `drawn`, and what it is good for.

Nothing of this file imports torch at its top: a bundle runs it on a device that has numpy alone.
"""

import numpy as np

SIDE = 16


def drawn(count, seed):
    """Return images [N, 1, 16, 16] with one spot each, and where that is [N, 2], in pixels."""
    generator = np.random.default_rng(seed)
    spots = generator.uniform(3, 13, (count, 2)).astype(np.float32)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    images = np.exp(-((x - spots[:, 0, None, None]) ** 2 + (y - spots[:, 1, None, None]) ** 2) / 4)
    return (images + 0.1 * generator.standard_normal(images.shape)).astype(np.float32)[:, None], spots


class Distance:
    """The mean distance in pixels. Give `compute(statistics)` too where a score is no mean over samples."""

    name, unit, range, higher_is_better = "distance", "px", (0.0, float("inf")), False

    def statistic(self, prediction, target):
        """Return the distance of one sample."""
        return float(np.hypot(*(prediction - target)))


class Spots:
    """The members that `secateur` looks for; there is no class to inherit from."""

    metrics = (Distance(),)  # the first is judged

    def __init__(self):
        self.splits = {"train": drawn(400, 0), "validation": drawn(100, 1), "test": drawn(200, 2)}

    def eval_samples(self, split):
        """Yield an id, a raw sample and its target; no id may be in two splits."""
        for index, (image, spot) in enumerate(zip(*self.splits[split], strict=True)):
            yield f"{split} {index}", image, spot

    def preprocess(self, raw):
        """Return the network's inputs for one sample, without batch axis."""
        return {"image": raw}

    def decode(self, outputs):
        """Return the prediction for one sample from the network's outputs, without batch axis."""
        return outputs["point"] * SIDE

    def show(self, prediction, raw, classes=()):
        """Return the prediction for people."""
        return "spot at {:.1f}, {:.1f}".format(*prediction)

    def train_batches(self, split, seed, epoch):
        """Return the batches of an epoch, which depend on (seed, epoch) alone: inputs, and what `loss` wants."""
        import torch

        images, spots = self.splits[split]
        order = np.random.default_rng((seed, epoch)).permutation(len(images))
        parts = np.array_split(order, 25)
        return [(torch.from_numpy(images[part]), torch.from_numpy(spots[part] / SIDE)) for part in parts]

    def loss(self, outputs, target):
        """Return a scalar from what the network's forward returns."""
        return (outputs["point"] - target).abs().mean()


def task():
    """Return the task; arguments come from the recipe."""
    return Spots()
