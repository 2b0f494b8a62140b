"""Clusters of a network while its quantized graph is trained: which of the graph's constants they are in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.compress.sharing.codebooks import find_codebook
from pipeline.compress.sharing.tied import TiedWeights
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.compress.quantization.aware.graph import QuantizationAware
    from pipeline.compress.sharing.codebooks import Codebook, SharingRule


def tied_constants(aware: QuantizationAware, rules: Mapping[str, SharingRule]) -> TiedWeights:
    """Return what keeps the clusters of the weights of a graph that its network shares.

    A constant that the export has turned, or named anew, is found by having as few values along one of its dimensions.
    """
    books = {}
    for constant, name in aware.trained_weights().items():
        weight = aware.get_parameter(name)
        known = [rules[constant]] if constant in rules else list(dict.fromkeys(rules.values()))
        turned = (replace(rule, outputs=dim) for rule in known for dim in (rule.outputs, 1 - rule.outputs))
        book = next(((found, rule.gradient) for rule in turned if (found := _codebook_in(weight, rule))), None)
        if book is not None:
            books[name] = book
    return TiedWeights(books)


def _codebook_in(weight: Tensor, rule: SharingRule) -> Codebook | None:
    """Return the codebook that a constant has by a rule; None where it has none."""
    if weight.ndim <= rule.outputs or weight.numel() <= rule.clusters:
        return None
    try:
        return find_codebook(weight, rule)
    except InputError:  # more values than clusters: this one is not shared, or another dimension has its channels
        return None
