"""A data set from the user's own Python file, which exposes `load(**arguments) -> pipeline.core.dataset.Dataset`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from typing import TYPE_CHECKING, Any

from pipeline.core.dataset import Dataset
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def digest(path: Path, arguments: Mapping[str, Any]) -> str:
    """Return the sha256 over the file and its arguments. What the file itself reads is not seen."""
    total = hashlib.sha256(path.read_bytes())
    total.update(json.dumps(dict(arguments), sort_keys=True, allow_nan=False).encode())
    return total.hexdigest()


def load(path: Path, arguments: Mapping[str, Any]) -> Dataset:
    """Import the file under a name of its own and call its `load`. Raises InputError when it gives no Dataset."""
    spec = importlib.util.spec_from_file_location(f"secateur_data_{digest(path, arguments)[:12]}", path)
    if spec is None or spec.loader is None:
        message = f"{path} is not a Python file"
        raise InputError(message)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "load", None)):
        message = f"{path} has no function load(**arguments) that returns a pipeline.core.dataset.Dataset"
        raise InputError(message)
    dataset = module.load(**arguments)
    if not isinstance(dataset, Dataset):
        message = f"{path}: load() returned {type(dataset).__name__}, expected pipeline.core.dataset.Dataset"
        raise InputError(message)
    return dataset
