"""A data set from the user's own Python file, which exposes `load(**arguments) -> pipeline.core.dataset.Dataset`.

It is told apart by its text, its arguments, the modules that it imports from its folder, and the files and folders that
the recipe names as inputs. What else `load` reads and imports is found while it runs, and said.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import file_digest
from pipeline.core.code_inputs import input_digests, recorded_dependencies, undeclared_inputs
from pipeline.core.dataset import SPLITS, Arrays, Dataset
from pipeline.core.errors import InputError
from pipeline.core.local_imports import ImportableFolder, local_modules
from pipeline.core.paths import content_of
from pipeline.core.user_code import import_file, user_code_errors
from pipeline.data.accepted import accepted, shared_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def digest(path: Path, arguments: Mapping[str, Any], inputs: Sequence[Path] = ()) -> str:
    """Return the sha256 over the file, its arguments, the local modules that it imports, and its inputs.

    Raises:
        InputError: an input holds what cannot be read, or a module is not Python.
    """
    total = hashlib.sha256(content_of(path))
    total.update(json.dumps(dict(arguments), sort_keys=True, allow_nan=False).encode())
    for name, module in local_modules(path).items():
        total.update(f"\nmodule {name} {file_digest(module)}".encode())
    for name, found in input_digests(inputs, "data.inputs"):
        total.update(f"\ninput {name} {found}".encode())
    return total.hexdigest()


def load(path: Path, arguments: Mapping[str, Any], inputs: Sequence[Path] = ()) -> Dataset | Arrays:
    """Import the file under a name of its own and call its `load`; modules beside the file can be imported there.

    Raises:
        InputError: it gives no Dataset, or one whose arrays are not what they should be, with all that is wrong.
    """
    with ImportableFolder(path.parent), recorded_dependencies(path) as read:
        dataset = _called(path, arguments)
    undeclared = undeclared_inputs(read, path, arguments, inputs, "load data")
    if isinstance(dataset, Arrays):
        return replace(dataset, notes=(*dataset.notes, *undeclared))
    found = accepted(dataset, f"{path}: load()")
    splits: dict[str, Any] = {name: getattr(found, name) for name in SPLITS}
    shared = shared_images(splits, lambda place: f"{place[0]}[{place[1]}]")
    return replace(found, notes=(*found.notes, *shared, *undeclared))


def _called(path: Path, arguments: Mapping[str, Any]) -> Dataset | Arrays:
    with user_code_errors(f"data file {path} cannot be imported", alone=True):
        module = import_file(path, "secateur_data")
    if not callable(getattr(module, "load", None)):
        raise InputError(f"{path} has no function load(**arguments) that returns a pipeline.core.dataset.Dataset")
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    with user_code_errors(f"{path}: load({given}) failed", alone=True):
        dataset = module.load(**arguments)
    if not isinstance(dataset, Dataset | Arrays):
        raise InputError(
            f"{path}: load() returned {type(dataset).__name__}, expected pipeline.core.dataset.Dataset, or Arrays for "
            "another task than classifying images"
        )
    return dataset
