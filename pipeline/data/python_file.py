"""A data set from the user's own Python file, which exposes `load(**arguments) -> pipeline.core.dataset.Dataset`.

It is told apart by its text, its arguments, the modules beside it that it imports, and the files and folders that the
recipe names as inputs. Other files that `load` reads are found while it runs, and said.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import file_digest
from pipeline.core.dataset import Dataset
from pipeline.core.errors import InputError
from pipeline.core.local_imports import importable, local_modules
from pipeline.core.paths import content_of
from pipeline.core.user_code import import_file, told
from pipeline.data.accepted import SPLITS, accepted, shared_images
from pipeline.data.files_read import files_read
from pipeline.data.image_file import odd
from pipeline.data.problems import NAMED, examples, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def digest(path: Path, arguments: Mapping[str, Any], inputs: Sequence[Path] = ()) -> str:
    """Return the sha256 over the file, its arguments, the local modules that it imports, and its inputs.

    Raises:
        InputError: an input holds what cannot be read, or a module is not Python.
    """
    total = hashlib.sha256(content_of(path))
    total.update(json.dumps(dict(arguments), sort_keys=True, allow_nan=False).encode())
    for name, module in local_modules(path).items():
        total.update(f"\nmodule {name} {file_digest(module)}".encode())
    problems: list[str] = []
    for given in inputs:
        for name, file in _input_files(given):
            if why := odd(file):
                problems.append(f"{file}: {why}")
            else:
                total.update(f"\ninput {name} {file_digest(file)}".encode())
    refuse("data.inputs", problems, "Remove them, or name the files that load reads one by one.")
    return total.hexdigest()


def _input_files(given: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name within the input and the path of each of its files, in name order; hidden folders are left out."""
    if not given.is_dir():
        yield given.name, given
        return
    for place, folders, files in os.walk(given):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(place, name)
            yield f"{given.name}/{file.relative_to(given).as_posix()}", file


def load(path: Path, arguments: Mapping[str, Any], inputs: Sequence[Path] = ()) -> Dataset:
    """Import the file under a name of its own and call its `load`; modules beside the file can be imported there.

    Raises:
        InputError: it gives no Dataset, or one whose arrays are not what they should be, with all that is wrong.
    """
    with importable(path.parent), files_read() as read:
        dataset = _called(path, arguments)
    found = accepted(dataset, f"{path}: load()")
    splits = {name: getattr(found, name) for name in SPLITS}
    shared = shared_images(splits, lambda place: f"{place[0]}[{place[1]}]")
    return replace(found, notes=(*found.notes, *shared, *_undeclared(read, path, inputs)))


def _called(path: Path, arguments: Mapping[str, Any]) -> Dataset:
    with told(f"data file {path} cannot be imported", alone=True):
        module = import_file(path, "secateur_data")
    if not callable(getattr(module, "load", None)):
        message = f"{path} has no function load(**arguments) that returns a pipeline.core.dataset.Dataset"
        raise InputError(message)
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    with told(f"{path}: load({given}) failed", alone=True):
        dataset = module.load(**arguments)
    if not isinstance(dataset, Dataset):
        message = f"{path}: load() returned {type(dataset).__name__}, expected pipeline.core.dataset.Dataset"
        raise InputError(message)
    return dataset


def _undeclared(read: set[Path], path: Path, inputs: Sequence[Path]) -> tuple[str, ...]:
    """Say which files load read that the recipe does not name, and what to write there."""
    named = [given.resolve() for given in inputs]
    missing = sorted(file for file in read if not any(file.resolve().is_relative_to(given) for given in named))
    if not missing:
        return ()
    names = [os.path.relpath(file, path.parent) for file in missing]
    common = Path(os.path.commonpath(missing)) if len(names) > NAMED else path.parent
    wanted = names if path.is_relative_to(common) else [os.path.relpath(common, path.parent)]
    text = f"files that load() of {path.name} reads and the recipe does not name: {len(names):,} ({examples(names)}). "
    text += "A change of them is not seen, and finished stages are taken from the store. Write "
    return (f"{text}inputs: [{examples(wanted)}] below data, or run with --fresh",)
