"""Detection where the network itself decodes boxes: what is left is to choose among its rows. Data are the canvases.

Samples, overlaps and metrics are those of the task `detection`, so that scores can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from canvases import NORMALISATION, load

from pipeline.tasks.detection import Detection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class DecodedDetection(Detection):
    """Boxes of rows [anchors, 4 + K]: edges in pixels, then a probability for each class."""

    output_names = ("boxes",)

    def __init__(self, **arguments: int) -> None:
        self.data = load(**arguments)
        super().__init__(classes=self.data.classes, strides=(8, 16), mean=NORMALISATION.mean, std=NORMALISATION.std)

    def eval_samples(self, split: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield an id, an image uint8 [1, H, W] and its boxes [N, 5]."""
        samples = getattr(self.data, split)
        for place, boxes in enumerate(samples.targets):
            yield f"{split} {place}", {"image": samples.inputs["image"][place]}, boxes

    def decode(self, outputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the boxes [M, 6] of one sample, by falling score."""
        rows_AC = np.asarray(outputs["boxes"], dtype=np.float32)
        places, classes = np.nonzero(rows_AC[:, 4:] >= self.score_threshold)
        found = np.column_stack([rows_AC[places, :4], rows_AC[places, 4 + classes], classes])
        side = self.data.train.inputs["image"].shape[-1]
        return self.best(found.astype(np.float32), side, side)


def task(**arguments: int) -> DecodedDetection:
    """Return the task."""
    return DecodedDetection(**arguments)
