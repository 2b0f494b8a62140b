"""Modules of the user's own that a Python file imports: those next to it by its text, all once it was imported."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.core.files_read import is_users
from pipeline.core.paths import content_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


#: This program's package, which is no part of what a file brings with it.
OWN = __name__.partition(".")[0]


def local_modules(file: Path) -> dict[str, Path]:
    """Return by dotted name the files beside `file` that it imports, and those that these import, in name order.

    Imports that are put together when the program runs (`importlib`) are not seen.

    Raises:
        InputError: a file is not Python; the message has its line.
    """
    root = file.resolve().parent
    found: dict[str, Path] = {}
    waiting = [(file, "")]
    while waiting:
        source, package = waiting.pop()
        for name in _imported(source, package):
            if name.partition(".")[0] == OWN:
                continue
            for module, path in _files(root, name):
                if module not in found and path.resolve() != file.resolve():
                    found[module] = path
                    waiting.append((path, module if path.name == "__init__.py" else module.rpartition(".")[0]))
    return dict(sorted(found.items()))


def imported_modules(file: Path) -> dict[str, Path]:
    """Return by dotted name the user's modules that a file which was imported uses, and those that these use.

    They may lie anywhere (`sys.path.insert`, packages installed to be edited); other installed packages are left out.
    """
    found: dict[str, Path] = {}
    waiting = [(file, "")]
    while waiting:
        source, package = waiting.pop()
        names = {part for name in _imported(source, package) for part in _with_packages(name)}
        for name in sorted(names - {*found}):
            path = getattr(sys.modules.get(name), "__file__", None)
            if name.partition(".")[0] == OWN or not isinstance(path, str) or not path.endswith(".py"):
                continue
            if is_users(path):
                found[name] = Path(path)
                waiting.append((Path(path), name if Path(path).name == "__init__.py" else name.rpartition(".")[0]))
    return dict(sorted(found.items()))


def _with_packages(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _imported(source: Path, package: str) -> Iterator[str]:
    """Yield the dotted names that a file imports; names after `from` may be modules too."""
    try:
        tree = ast.parse(content_of(source), str(source))
    except (SyntaxError, ValueError) as error:
        place = f"{source}:{error.lineno}" if isinstance(error, SyntaxError) else f"{source}"
        raise InputError(f"{place} is not Python: {error.args[0]}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level and package else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ([base] if base else [])
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _files(root: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yield the files below `root` that importing a dotted name runs: packages first, then the module."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:count])
        choices = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        path = next((each for each in choices if each.is_file()), None)
        if path is not None:
            yield ".".join(parts[:count]), path
        if not place.is_dir():
            return


class ImportableFolder:
    """A folder whose modules can be imported in `with` blocks like those next to a script, and only there.

    What was imported in one block is there again in the next. Two files may so have modules of the same name beside
    them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._depth = folder.resolve(), 0
        self._own: dict[str, ModuleType] = {}
        self._hidden: dict[str, ModuleType] = {}
        self._before: set[str] = set()

    def __enter__(self) -> None:
        """Put the folder before all others; nothing where a block is open already."""
        self._depth += 1
        if self._depth > 1:
            return
        self._hidden = {name: sys.modules[name] for name in self._own if name in sys.modules}
        sys.modules.update(self._own)
        self._before = {*sys.modules}
        sys.path.insert(0, str(self._folder))

    def __exit__(self, *_: object) -> None:
        """Take the folder and its modules away; others of their names are there again."""
        self._depth -= 1
        if self._depth:
            return
        if str(self._folder) in sys.path:
            sys.path.remove(str(self._folder))
        new = sys.modules.keys() - self._before
        tops = {_top(name) for name in self._own}
        tops |= {top for top in {_top(name) for name in new} - self._before if _lies_beside(top, self._folder)}
        names = [*self._own, *(name for name in new if _top(name) in tops)]
        self._own = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        sys.modules.update(self._hidden)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _lies_beside(name: str, folder: Path) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return isinstance(file, str) and Path(file) in {folder / f"{name}.py", folder / name / "__init__.py"}
