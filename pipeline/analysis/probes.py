"""Runs a file, nothing optimised, and watches its layers: noise against the float file, dead channels, clipping.

Ratio of signal to quantization noise, in dB: 10 log10(sum x^2 / sum (x - y)^2) over all samples and positions, x the
tensor of the float file and y that of the same name in the quantized one, after its DequantizeLinear where it has one:
what the next layer gets. Accumulated: the quantized network from its inputs on. Own: the layer's inputs come from the
float file and pass its own quantizers, so that only its inputs, its weights and its output are quantized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.results.file_inspection import SQNR_CEILING_DB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from pipeline.results.file_inspection import Quantizer

    Tensors = Mapping[str, NDArray[Any]]

#: Fewest values of a channel (samples times positions) for which it means something that it never changes.
FEWEST = 2


@dataclass(frozen=True)
class Probe:
    """Where a layer is watched.

    `raw` is its output, `after` the same after its quantizer; equal where it has none. `axis` is that of channels,
    None for layers without weights. `reference` is the tensor's name in the float file.
    """

    layer: str
    raw: str
    after: str
    reference: str
    quantizer: Quantizer | None = None
    axis: int | None = None


@dataclass
class LayerStatistics:
    """What is added up for one layer."""

    signal: float = 0.0
    noise: float = 0.0
    own_signal: float = 0.0
    own_noise: float = 0.0
    beyond: int = 0
    numbers: int = 0
    shape: tuple[int, ...] = ()
    values: int = 0
    spans: dict[str, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)

    @property
    def sqnr_db(self) -> float | None:
        """The accumulated ratio; None without a reference or signal."""
        return ratio_db(self.signal, self.noise)

    @property
    def own_sqnr_db(self) -> float | None:
        """The layer's own ratio; None without a reference or signal."""
        return ratio_db(self.own_signal, self.own_noise)

    @property
    def clipped(self) -> float | None:
        """Share of outputs beyond the quantizer's range; None where there is no quantizer."""
        return self.beyond / self.numbers if self.numbers else None

    def dead(self, which: str) -> NDArray[np.bool_] | None:
        """Return which channels [C] never changed in the file (`found`) or in the float file (`reference`).

        None where they were not watched, or had a single value.
        """
        if which not in self.spans or self.values < FEWEST:
            return None
        low, high = self.spans[which]
        dead: NDArray[np.bool_] = low == high
        return dead


def ratio_db(signal: float, noise: float) -> float | None:
    """Return signal to noise in dB, at most the ceiling, which stands for equality; None without a signal.

    Noise that is not finite drowns every signal: the ceiling's negative.
    """
    if signal <= 0:
        return None
    if not np.isfinite(noise):
        return -SQNR_CEILING_DB
    return SQNR_CEILING_DB if noise <= 0 else min(SQNR_CEILING_DB, float(10 * np.log10(signal / noise)))


def watch(
    probes: Iterable[Probe], found: Iterable[Tensors], reference: Iterable[Tensors] = (), own: Iterable[Tensors] = ()
) -> dict[str, LayerStatistics]:
    """Add up call after call and return what was seen of each layer.

    Args:
        probes: where to look.
        found: for each call, the tensors `raw` and `after`.
        reference: for each call, the tensors `reference` of the float file; empty without one.
        own: for each call, the tensors `after` of the layers computed alone; empty where that is not possible.
    """
    placed = tuple(probes)
    seen = {probe.layer: LayerStatistics() for probe in placed}
    references, owns = iter(reference), iter(own)
    for tensors in found:
        expected, alone = next(references, {}), next(owns, {})
        for probe in placed:
            _add(seen[probe.layer], probe, tensors, expected, alone)
    return seen


def _add(watched: LayerStatistics, probe: Probe, tensors: Tensors, expected: Tensors, alone: Tensors) -> None:
    raw, after = tensors.get(probe.raw), tensors.get(probe.after)
    if raw is not None:
        watched.shape = raw.shape
        watched.values += raw.size // max(raw.shape[probe.axis], 1) if probe.axis is not None and raw.ndim > 1 else 0
        _count_clipped(watched, probe, raw)
    wanted = expected.get(probe.reference)
    for which, value in (("found", after), ("reference", wanted)):
        if value is not None:
            _widen(watched, probe, which, value)
    if after is not None and wanted is not None and after.shape == wanted.shape:
        signal, noise = _powers(wanted, after)
        watched.signal, watched.noise = watched.signal + signal, watched.noise + noise
    single = alone.get(probe.layer)
    if single is not None and wanted is not None and single.shape == wanted.shape:
        signal, noise = _powers(wanted, single)
        watched.own_signal, watched.own_noise = watched.own_signal + signal, watched.own_noise + noise


def _powers(reference: NDArray[Any], other: NDArray[Any]) -> tuple[float, float]:
    exact = reference.astype(np.float64)
    same = (exact == other) | (np.isnan(exact) & np.isnan(other))  # what is not finite in both is no noise
    noise = np.square(np.subtract(exact, other, where=~same, out=np.zeros_like(exact)))
    return float(np.square(exact, where=np.isfinite(exact), out=np.zeros_like(exact)).sum()), float(noise.sum())


def _count_clipped(watched: LayerStatistics, probe: Probe, raw: NDArray[Any]) -> None:
    """Count outputs that lie beyond the range by more than half a step; below zero a ReLU is meant to cut."""
    quantizer = probe.quantizer
    if quantizer is None or quantizer.low is None or quantizer.high is None or quantizer.scales > 1:
        return
    half = (quantizer.scale_max or 0.0) / 2
    beyond = int((raw > quantizer.high + half).sum())
    if not quantizer.bounded_below:
        beyond += int((raw < quantizer.low - half).sum())
    watched.beyond += beyond
    watched.numbers += raw.size


def _widen(watched: LayerStatistics, probe: Probe, which: str, value: NDArray[Any]) -> None:
    """Take a tensor's values into the spans of its channels."""
    if probe.axis is None or value.ndim == 1:
        return
    others = tuple(axis for axis in range(value.ndim) if axis != probe.axis % value.ndim)
    low, high = value.min(axis=others), value.max(axis=others)
    if which in watched.spans:
        before = watched.spans[which]
        low, high = np.minimum(before[0], low), np.maximum(before[1], high)
    watched.spans[which] = (low, high)
