"""`time_scope: model+decode`: what a worker needs so that every timed call also decodes the outputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.artifact import file_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.core.feeds import Feeds
    from pipeline.measure.devices import Device


@dataclass(frozen=True)
class Decoding:
    """The half of a task that needs no torch, and one batch of samples on which files are timed with it.

    `sources` are Python files by their places below one folder, the one with the task first. `code` says how they are
    called: a module, its class and settings, or a file and its arguments. `samples` has the .npy file of each input.
    """

    sources: Mapping[str, Path]
    code: Mapping[str, Any]
    samples: Mapping[str, Path]

    def sent_to(self, device: Device, outputs: Sequence[str]) -> dict[str, Any]:
        """Bring everything to a device; return it as a request describes it, for a file with these outputs."""
        stored = {name: f"samples/{place}.npy" for place, name in enumerate(self.samples)}
        files = {f"task/{name}": path for name, path in self.sources.items()}
        files |= {stored[name]: path for name, path in self.samples.items()}
        digest = hashlib.sha256("".join(file_digest(path) for path in files.values()).encode()).hexdigest()
        places = device.push({f"{digest}/{name}": path for name, path in files.items()})
        first = next(iter(self.sources))
        return {
            "folder": str(PurePosixPath(places[f"{digest}/task/{first}"]).parent),
            "code": dict(self.code),
            "outputs": list(outputs),
            "samples": {name: places[f"{digest}/{place}"] for name, place in stored.items()},
        }


def stored_samples(feeds: Feeds, folder: Path) -> dict[str, Path]:
    """Write inputs [N, ...] by name as .npy files into a folder; return the file of each."""
    found = {name: folder / f"{place}.npy" for place, name in enumerate(feeds)}
    for name, values in feeds.items():
        np.save(found[name], values)
    return found
