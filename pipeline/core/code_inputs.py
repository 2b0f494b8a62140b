"""What the user's Python depends on beside its own text: files and folders that it reads, modules that it imports.

Those that a recipe names as `inputs` are part of cache keys, by content. Others are found while the code runs.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.artifact import file_digest
from pipeline.core.files_read import files_read, users
from pipeline.core.local_imports import imported_modules, local_modules
from pipeline.core.partial import write_whole
from pipeline.core.paths import content_of, kind_of, unreadable_reason
from pipeline.core.problems import NAMED, first_names, refuse_problems
from pipeline.core.reading import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: What a stage's code read, by path; a torch network has it in its own description.
READS_FILE, NETWORK_FILE = "reads.json", "network.json"
ADVICE = "Remove them, or name the files that are read one by one."


def input_digests(inputs: Sequence[Path], key: str) -> Iterator[tuple[str, str]]:
    """Yield the name within its input and the sha256 of every file, in name order; hidden folders are left out.

    Raises InputError, after the last one, when there are files that cannot be read; `key` is the recipe's for them.
    """
    problems: list[str] = []
    for given in inputs:
        for name, file in _files(given):
            if why := unreadable_reason(file, "a file of data"):
                problems.append(f"{file}: {why}")
            else:
                yield name, file_digest(file)
    refuse_problems(key, problems, ADVICE)


def content_digest(path: Path) -> str:
    """Return the sha256 of a file, or of the names and digests of all files in a folder."""
    if kind_of(path) != "a folder":
        return file_digest(path)
    total = hashlib.sha256()
    for name, found in input_digests((path,), str(path)):
        total.update(f"{name} {found}\n".encode())
    return total.hexdigest()


@contextmanager
def recorded_dependencies(file: Path) -> Iterator[set[Path]]:
    """Give a set that holds, after the block, what a file that is imported and called in it reads and imports.

    Without the file itself, and without what belongs to the system, to Python or to an installed package.
    """
    found: set[Path] = set()
    with files_read() as read:
        yield found
    found.update(read, imported_modules(file).values())
    found.discard(file)


def undeclared_inputs(
    found: set[Path], file: Path, arguments: Mapping[str, Any], inputs: Sequence[Path], call: str
) -> tuple[str, ...]:
    """Say on which files a function such as `build` depends without the recipe naming them, and what to write there.

    Args:
        found: what it read and imported.
        file: the Python file that has the function.
        arguments: those of the function; texts may be paths, as may texts in the file.
        inputs: files and folders that are named, by `inputs` or otherwise.
        call: the function and the part of the recipe that names the file, such as `build model`.
    """
    function, section = call.split()
    named = [given.resolve() for given in (*inputs, file, *local_modules(file).values())]
    every = {each.resolve() for each in (*found, *_named(file, arguments))}
    missing = sorted(each for each in every if not any(each.is_relative_to(given) for given in named))
    if not missing:
        return ()
    names = [os.path.relpath(each, file.parent) for each in missing]
    common = Path(os.path.commonpath(missing)) if len(names) > NAMED else file.parent
    wanted = names if file.is_relative_to(common) else [os.path.relpath(common, file.parent)]
    effect, otherwise = (
        ("A change of them is not seen, and finished stages are taken from the store", ", or run with --fresh")
        if section in {"data", "task"}
        else ("When they change, run makes stages again, although plan does not see it", "")
    )
    reader = f"{function}() of {file.name}" if section != "task" else file.name  # its methods read too
    text = (
        f"files that {reader} reads and the recipe does not name: {len(names):,} "
        f"({first_names(names)}). {effect}. Write inputs: [{first_names(wanted)}] below {section}{otherwise}"
    )
    return (text,)


def within_inputs(path: Path, inputs: Sequence[Path]) -> bool:
    """Say whether a file is one of the inputs, or lies in a folder that is."""
    return any(path.resolve().is_relative_to(given.resolve()) for given in inputs)


def write_reads(folder: Path, read: set[Path]) -> None:
    """Write down what a stage's code read that is no part of its key, so that a change of it can be seen."""
    if read:
        write_whole(folder / READS_FILE, json.dumps(digests_of(read), indent=1, allow_nan=False) + "\n")


def digests_of(read: set[Path]) -> dict[str, str]:
    """Return the sha256 of every file by its path."""
    return {str(path): file_digest(path) for path in sorted(read)}


def changed_since(folder: Path) -> list[str]:
    """Return the recorded files of a stored entry that have changed or gone since it was made."""
    stored: dict[str, str] = {}
    for name in (NETWORK_FILE, READS_FILE):
        if (folder / name).is_file():
            found = read_object(folder / name, "what a stage wrote")
            stored |= found.get("reads", {}) if name == NETWORK_FILE else found
    return [path for path, digest in stored.items() if not Path(path).is_file() or file_digest(Path(path)) != digest]


def _files(given: Path) -> Iterator[tuple[str, Path]]:
    if not given.is_dir():
        yield given.name, given
        return
    for place, folders, files in os.walk(given):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(files):
            file = Path(place, name)
            yield f"{given.name}/{file.relative_to(given).as_posix()}", file


def _named(file: Path, arguments: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files that texts of the code or the arguments name: libraries may open them where nobody sees it."""
    texts = {node.value for node in ast.walk(ast.parse(content_of(file))) if isinstance(node, ast.Constant)}
    for text in {*texts, *arguments.values()}:
        if isinstance(text, str) and text.isprintable() and text:
            places = (Path.cwd() / text, file.parent / text)
            yield from (Path(each) for each in users(map(os.path.abspath, places)) if kind_of(Path(each)) == "a file")
