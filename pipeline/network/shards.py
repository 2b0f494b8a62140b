"""Which files weights lie in: one, or the shards that an index of Hugging Face's form names. Loads nothing."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.reading import read_object

#: What the name of an index ends in: model.safetensors.index.json, pytorch_model.bin.index.json.
INDEX = ".index.json"
_MAP = "weight_map"


def is_index(file: Path) -> bool:
    """Say whether a file names shards."""
    return file.name.endswith(INDEX)


def weight_files(file: Path) -> tuple[Path, ...]:
    """Return a file of weights, or an index and the shards beside it, each once.

    Raises InputError where an index is damaged, or a shard is not there.
    """
    return (file, *dict.fromkeys(shard_places(file).values())) if is_index(file) else (file,)


def shard_places(index: Path) -> dict[str, Path]:
    """Return by tensor the shard that an index says it is in. Raises InputError as `weight_files` does."""
    found = read_object(index, "the index of shards").get(_MAP)
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f"weights {index} has no {_MAP}, expected the file of each tensor by name")
    places = {}
    for tensor, name in found.items():
        places[tensor] = index.parent / name
        if Path(name).name != name:
            raise InputError(f"weights {index} names {name}, allowed: files beside it")
        if not places[tensor].is_file():
            raise InputError(
                f"weights {index} names {name}, which is not beside it: download all shards into one folder"
            )
    return places
