"""Checkpoints as training programs leave them: tensors read without unpickling code, and the entry that is the network.

Beside the network a program saves its optimizer, its options and counters. What of these is plain values is read and
left alone; whatever would run code of the file is refused.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import types
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, load

from pipeline.core.errors import InputError
from pipeline.core.paths import kind_of
from pipeline.network.shards import is_index, shard_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: Entries within entries that are looked at: {"ema": {"module": {...}}}.
_DEEPEST = 2
#: Plain values that programs save beside tensors, whose classes run nothing when they are read.
_HARMLESS: list[Any] = [
    *(argparse.Namespace, types.SimpleNamespace),
    *(pathlib.PosixPath, pathlib.PurePosixPath, pathlib.PureWindowsPath),
    *(np.dtype, np.float64().__reduce__()[0]),  # what the pickles of numbers of numpy name
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "b1")),
]


def read_checkpoint(file: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read what a file holds: of .safetensors tensors by name, of an index those of its shards.

    Raises InputError where it cannot be read, or not without unpickling objects.
    """
    if kind_of(file) == "no file":
        raise InputError(f"weights {file} is a pipe or a device, expected a file")
    if is_index(file):
        return _sharded(file)
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals(_HARMLESS):
            return load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {file} cannot be read: {error}") from error
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise InputError(f"weights {file} cannot be read as plain tensors: {_why(file, error)}") from error


def network_tensors(
    content: Any,  # noqa: ANN401 - whatever the file holds
    file: Path,
    key: str | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of the network among what a file holds.

    Args:
        content: what `read_checkpoint` returned.
        file: for messages.
        key: the entry that is the network, with dots between entries of entries; None: the only one that may be.

    Raises InputError where there is none, or several and no key.
    """
    entries = dict(_entries(content))
    if key is not None:
        if key not in entries:
            found = ", ".join(filter(None, entries)) or "none"
            raise InputError(
                f"weights {file} have no tensors by name as {key}; found: {found}: change model.weights_key"
            )
        return entries[key]
    if "" in entries:
        return entries[""]
    if len(entries) > 1:
        told = ", ".join(f"{name} ({len(tensors)} tensors)" for name, tensors in entries.items())
        raise InputError(
            f"weights {file} hold several networks: {told}; name one: model.weights_key: {next(iter(entries))}"
        )
    if entries:
        return next(iter(entries.values()))
    kinds = {str(name): type(value).__name__ for name, value in content.items()} if isinstance(content, dict) else {}
    told = ", ".join(f"{name} ({kind})" for name, kind in kinds.items() if kind != "Tensor")
    raise InputError(
        f"weights {file} hold {type(content).__name__}{f' with {told[:200]}' if told else ''}, expected a dictionary "
        "of tensors by name, alone or as one of its entries"
    )


def _entries(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:  # noqa: ANN401
    """Yield the dictionaries of tensors in a file by place, the file itself as ""; an optimizer's are by number."""
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield place, dict(content)
    elif depth < _DEEPEST:
        for name, value in content.items():
            yield from _entries(value, f"{place}.{name}" if place else name, depth + 1)


def _sharded(index: Path) -> dict[str, Tensor]:
    """Return the tensors of all shards. Raises InputError where a shard lacks one that the index says it has."""
    places = shard_places(index)
    found: dict[str, Tensor] = {}
    for shard in dict.fromkeys(places.values()):
        tensors = network_tensors(read_checkpoint(shard), shard)
        if lost := [name for name, place in places.items() if place == shard and name not in tensors]:
            raise InputError(f"weights {shard} lack {lost[0]}, which {index.name} says is there: download both again")
        found |= tensors
    return found


def _why(file: Path, error: Exception) -> str:
    """Say why torch did not read a file, and what to do."""
    save = "Where it was made, save model.state_dict(), best as .safetensors"
    if _is_script(file):
        return f"it is TorchScript, which is a program. {save}: of torch.jit.load({file.name!r})"
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it has an object of {named[1]}, and files that need unpickling of objects are refused. {save}"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{first}. Files that need unpickling of objects are refused. {save}"


def _is_script(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def leading_name(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return what stands before a network's names in a file, such as `module.` or `model.`; empty for nothing.

    It is found where with it taken away more names are the network's than before, and no other one gives as many: a
    layer of the network may be called so itself.
    """
    best, count = {""}, len(weights.keys() & expected.keys())
    if count == len(expected):
        return ""
    heads = {"".join(f"{part}." for part in name.split(".")[:depth]) for name in weights for depth in range(1, 4)}
    for head in heads:
        fits = sum(name.removeprefix(head) in expected for name in weights if name.startswith(head))
        if fits > count:
            best, count = {head}, fits
        elif fits == count and fits:
            best.add(head)
    return next(iter(best)) if len(best) == 1 else ""
