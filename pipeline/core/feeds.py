"""What a network is given: an array [N, ...] for each input, by name, in the order in which its code takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

#: Inputs by name, each [N, ...] with the same N and of the dtype that the network takes.
Feeds = Mapping[str, NDArray[Any]]


def sample_count(feeds: Feeds) -> int:
    """Return N of inputs [N, ...]."""
    return len(next(iter(feeds.values())))


def take_samples(feeds: Feeds, places: Sequence[int] | NDArray[np.int64] | slice) -> dict[str, NDArray[Any]]:
    """Return the inputs of the samples at these places."""
    return {name: values[places] for name, values in feeds.items()}


def feed_slices(feeds: Feeds, batch: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the samples in groups of exactly `batch`, the last filled up from the start; all at once for -1."""
    total = sample_count(feeds)
    batch = batch if batch > 0 else total
    for start in range(0, total, batch):
        places = range(start, start + batch)
        yield {name: np.take(values, places, axis=0, mode="wrap") for name, values in feeds.items()}


def require_inputs(feeds: Feeds, names: Collection[str], label: str) -> None:
    """Raise InputError, naming `label`, unless the samples are given by exactly these names."""
    if feeds.keys() != set(names):
        raise InputError(f"{label} takes {', '.join(names)}; found {', '.join(feeds) or 'nothing'}")
