"""CHIP: channels whose feature maps are nearly combinations of those of the other channels matter least."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import torch

from pipeline.compress.pruning.importance.feature_maps import FeatureMaps

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.compress.pruning.graph import ChannelGraph
    from pipeline.compress.pruning.graph.capture import CapturedGraph
    from pipeline.compress.pruning.importance.request import Batches

#: Trapezoidal rule over u = log(t) / 2, t in units of the largest squared singular value. The integrand is analytic
#: within pi / 2 of the real axis and falls as exp(-|u|): both errors are below 1e-10 of the largest singular value.
_STEP, _REACH = 0.4, 25.0


def chip(captured: CapturedGraph, graph: ChannelGraph, batches: Batches) -> dict[str, Tensor]:
    """Return how much the nuclear norm of a layer's feature maps falls without a channel, float64 [width] by group.

    With A [channels, pixels] of one image, the score is ||A||_* - ||A with the channel's rows zeroed||_*, the mean over
    images and over a group's maps.

    Source: Sui et al., CHIP: CHannel Independence-based Pruning, NeurIPS 2021. Differs: `independence` needs one
    decomposition for each image instead of one for each channel, for the same numbers.
    Raises: InputError when a group has no feature map; StageError when samples cannot be told apart in one.
    Cost: one forward pass for each batch, and one decomposition for each image and map.
    Limits: maps of one pixel, as after a linear layer, have one singular value, the norm of all channels: the score
    is then about a^2 / (2 ||a||), and says nothing about independence.
    """
    maps = FeatureMaps(captured, graph, "chip")
    return maps.averaged(batches, lambda each: torch.stack([independence(image.flatten(2)) for image in each]))


def independence(rows: Tensor) -> Tensor:
    """Return by how much the nuclear norm of a matrix falls when the rows of one class are zeroed, float64 [width].

    The nuclear norm is the trace of the root of the Gram matrix, and sqrt(x) = 1/pi * integral of x / (x + t) / sqrt(t)
    over t > 0. Without the rows of a class the Gram matrix loses a term of rank k, so by the matrix determinant lemma
    the difference is 1/pi * integral of sqrt(t) * trace((1 - P)^-1 Q), where with the squared singular values d and the
    class's rows U of the left singular vectors 1 - P = U diag(t / (d + t)) U^T + (1 - U U^T) and
    Q = U diag(d / (d + t)^2) U^T. All terms are positive: nothing cancels.

    Args:
        rows: [width, k, pixels], k rows for each class.

    Cost: one decomposition of order min(width * k, pixels) and products with 125 values of t: on one core about 25 ms
        for 256 channels of 14x14 pixels, where one decomposition for each channel takes 900 ms, and 130 ms for 512 of
        28x28.
    Limits: exact to about 1e-8 of the largest singular value, since small ones come from squares.
    """
    width, k, pixels = rows.shape
    matrix = rows.double().flatten(0, 1)
    squares, vectors = _left_singular(matrix)
    largest = squares.max()
    if float(largest) == 0:
        return squares.new_zeros(width)
    d = squares / largest
    u = torch.arange(-_REACH, _REACH, _STEP, dtype=d.dtype, device=d.device)
    t = (2 * u).exp()
    by_class = vectors.view(width, k, -1)
    pairs = by_class[:, :, None] * by_class[:, None]  # [width, k, k, rank]
    outside = torch.zeros(width, k, k, dtype=d.dtype, device=d.device)
    if width * k > pixels:
        outside = torch.eye(k, dtype=d.dtype, device=d.device) - pairs.sum(-1)
    left = (pairs @ (t / (d[:, None] + t)) + outside[..., None]).movedim(-1, 1)  # 1 - P: [width, t, k, k]
    lost = (pairs @ (d[:, None] / (d[:, None] + t) ** 2)).movedim(-1, 1)
    solved = lost / left if k == 1 else torch.linalg.solve(left, lost)
    falls: Tensor = solved.diagonal(dim1=-2, dim2=-1).sum(-1) @ (2 * _STEP / pi * (3 * u).exp())
    return largest.sqrt() * falls


def _left_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared singular values and the left singular vectors [rows, rank] of a matrix [rows, columns]."""
    if len(matrix) <= matrix.shape[1]:
        squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
        return squares.clamp(min=0), vectors
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return values.square(), vectors
