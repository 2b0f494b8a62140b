"""Weights that stay equal while they are trained: what is trained are the values of their codebooks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.compress.sharing.codebooks import Codebook
    from pipeline.compress.sharing.names import CentroidGradient


class TiedWeights:
    """Gives all weights of a cluster the gradient of its centroid, and takes them back to it after each step.

    The gradient of a centroid is the sum over its weights of factor * gradient: the chain rule of weight = factor *
    value (Han et al., "Deep Compression", ICLR 2016, section 3.3). Optimizers move single weights, each by factor *
    that sum, which with plain gradient descent moves the centroid by it. What an optimizer's own scaling or rounding
    leaves between them goes in `project`: a centroid becomes the least-squares one of its weights. Fixed values stay.
    """

    def __init__(self, books: Mapping[str, tuple[Codebook, CentroidGradient]]) -> None:
        """Take the codebook of each parameter by name, and whether gradients are summed or averaged."""
        self.books = dict(books)

    def require_fit(self, model: nn.Module) -> None:
        """Raise InputError when a parameter is not there or has another shape."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, (book, _) in self.books.items():
            if name not in parameters or parameters[name].shape != book.places.shape:
                raise InputError(
                    f"there is no parameter {name} of shape {tuple(book.places.shape)} to keep clusters of"
                )

    @torch.no_grad()
    def share_gradients(self, model: nn.Module) -> None:
        """Replace the gradient of each weight by what moves its cluster as a whole."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, (book, kind) in self.books.items():
            gradient = parameters[name].grad
            if gradient is None:
                continue
            sums = _summed(book, book.factors * gradient.double().cpu())
            if kind == "mean":
                sums = sums / _summed(book, torch.ones_like(book.places, dtype=torch.float64)).clamp(min=1)
            sums[book.fixed] = 0
            gradient.copy_((book.factors * sums[book.places]).to(gradient))

    @torch.no_grad()
    def project(self, models: Sequence[nn.Module]) -> None:
        """Make all weights of a cluster what its centroid gives, in place."""
        for model in models:
            parameters = dict(model.named_parameters(remove_duplicate=False))
            for name, (book, _) in self.books.items():
                weight = parameters[name]
                weight.copy_(refitted_book(book, weight).weight().to(weight))


def refitted_book(book: Codebook, weight: Tensor) -> Codebook:
    """Return a codebook with the values that come nearest to weights, by least squares; fixed ones stay.

    On a grid none becomes larger than the largest weights, or these would be others.
    """
    numbers = weight.detach().double().cpu()
    sizes = _summed(book, book.factors.square().expand_as(numbers).contiguous())
    fitted = _summed(book, book.factors * numbers) / torch.where(sizes > 0, sizes, torch.ones_like(sizes))
    fitted = fitted.clamp(-book.most, book.most)
    return replace(book, values=torch.where(book.fixed | (sizes <= 0), book.values, fitted))


def _summed(book: Codebook, numbers: Tensor) -> Tensor:
    """Return the sum of numbers [in the weight's shape] over each cluster, float64 [K]."""
    return torch.bincount(book.places.flatten(), weights=numbers.flatten(), minlength=book.values.numel())
