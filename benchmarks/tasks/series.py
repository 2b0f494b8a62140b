"""Time series that the package sktime brings (`pip install --no-deps sktime`), such as ItalyPowerDemand, BasicMotions.

Its files are read here, so that nothing else has to be installed. The split into train and test is the published one;
validation is a part of train.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.dataset import Arrays, Samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Series = tuple[NDArray[np.float32], list[str]]


def load(
    name: str = "ItalyPowerDemand", validation: float = 0.25, seed: int = 0, root: str = "", *, planes: bool = False
) -> Arrays:
    """Return series float32 [channels, T], standardised by the mean and deviation of train in each channel.

    With `planes` they are [1, T, channels], as networks for spectra take them.

    `root` is a folder with `NAME/NAME_TRAIN.ts` and `NAME_TEST.ts`; without it that of sktime. The share `validation`
    of each class of train is held out.
    """
    folder = (Path(root) if root else _data_of_sktime()) / name
    (train, train_labels), (test, test_labels) = (read_ts(folder / f"{name}_{part}.ts") for part in ("TRAIN", "TEST"))
    classes = sorted(set(train_labels))
    held = _held_out(train_labels, validation, seed)
    mean, std = (of(train[~held], axis=(0, 2), keepdims=True) for of in (np.mean, np.std))

    def samples(series: NDArray[np.float32], labels: list[str], chosen: NDArray[np.bool_]) -> Samples:
        numbers = np.array([classes.index(label) for label in labels], dtype=np.int64)
        ready = ((series - mean) / std).astype(np.float32)[chosen]
        ready = np.ascontiguousarray(ready.transpose(0, 2, 1)[:, None]) if planes else ready
        return Samples({"series": ready}, numbers[chosen])

    everything = np.ones(len(test), dtype=bool)
    return Arrays(
        name,
        train=samples(train, train_labels, ~held),
        validation=samples(train, train_labels, held),
        test=samples(test, test_labels, everything),
        classes=tuple(classes),
        notes=(f"{name} as in sktime; the licence of the series is not stated there",),
    )


def _data_of_sktime() -> Path:
    found = find_spec("sktime")
    if found is None or not found.submodule_search_locations:
        message = "sktime is not installed: pip install --no-deps sktime"
        raise ModuleNotFoundError(message)
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"


def read_ts(file: Path) -> Series:
    """Return the series [N, channels, T] of equal length in a .ts file, and the label of each.

    After `@data` a line is a series: channels between colons, values between commas, the label at the end.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next(place for place, line in enumerate(lines) if line.strip().lower() == "@data")
    rows = [line.strip().split(":") for line in lines[start + 1 :] if line.strip()]
    series = [[channel.split(",") for channel in channels] for *channels, _ in rows]
    return np.array(series, dtype=np.float32), [row[-1] for row in rows]


def _held_out(labels: list[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which samples are held out: the share of each class, at least one."""
    random, held = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
    for each in sorted(set(labels)):
        mine = random.permutation(np.flatnonzero(np.array(labels) == each))
        held[mine[: max(1, round(share * len(mine)))]] = True
    return held
