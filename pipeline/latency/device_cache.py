"""Records about devices in the cache folder: one file for each machine, version of a runtime and number of threads.

A machine is what `MUST_MATCH` names, whatever name or address it is reached by.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pipeline.core.artifact import FrozenModel
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.partial import write_whole
from pipeline.core.paths import cache_root
from pipeline.core.reading import read_value
from pipeline.results.measurement import machine_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Kind = Literal["doctor", "peaks"]
Record = TypeVar("Record", bound=FrozenModel)


def kept_file(kind: Kind, fingerprint: Mapping[str, Any], runtime: str, version: str, threads: int) -> Path:
    """Return where the record of that kind is kept, whether there is one or not."""
    text = "\n".join((machine_digest(fingerprint), runtime, version, str(threads)))
    return cache_root() / kind / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def read_kept(file: Path, record: type[Record]) -> Record | None:
    """Return what is kept, or None when there is nothing; what is damaged or of another version counts as nothing."""
    try:
        return read_value(file, record, "a record")
    except InputError:
        return None


def keep_record(file: Path, record: FrozenModel) -> None:
    """Write a record, whole or not at all.

    Raises:
        ResourceError: the cache folder cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{file.parent} cannot be created: {error.strerror}; set XDG_CACHE_HOME to another folder"
        ) from error
    write_whole(file, record.model_dump_json(indent=1) + "\n")
