"""Where the half of a task lies that needs no torch: the Python files, and how they are called, for another machine."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import StageError
from pipeline.core.local_imports import local_modules
from pipeline.data.task_file import FileTask

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where the kinds' own files lie, as modules.
_KINDS = "pipeline.tasks."


def task_sources(kit: Any) -> dict[str, Path]:  # noqa: ANN401 - kits share no class
    """Return a task's Python files by their places below one folder, the one with the task first."""
    if isinstance(kit, FileTask):
        root = kit.path.resolve().parent
        beside = local_modules(kit.path).values()
        return {kit.path.name: kit.path, **{path.resolve().relative_to(root).as_posix(): path for path in beside}}
    return kind_files(Path(str(sys.modules[type(kit).__module__].__file__)))


def code_of(kit: Any) -> dict[str, Any]:  # noqa: ANN401 - kits share no class
    """Return how these files make the task: file and arguments, or module, class and settings."""
    if isinstance(kit, FileTask):
        return {"file": kit.path.name, "arguments": kit.arguments}
    module = type(kit).__module__
    settings = getattr(kit, "settings", None)
    if not module.startswith(_KINDS) or not isinstance(settings, dict):
        raise StageError(f"a task of the kind {kit.kind} cannot be put into a bundle: its code has no file of its own")
    return {"module": module.removeprefix(_KINDS), "class": type(kit).__name__, "settings": settings}


def kind_files(file: Path) -> dict[str, Path]:
    """Return a file and its neighbours that it imports by relative imports, and those that these import, by name."""
    found, waiting = {file.name: file}, [file]
    while waiting:
        for node in _run_nodes(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                for name in [node.module] if node.module else [alias.name for alias in node.names]:
                    path = file.with_name(f"{name}.py")
                    if path.name not in found and path.is_file():
                        found[path.name] = path
                        waiting.append(path)
    return found


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those of blocks for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.If) or ast.unparse(child.test) != "TYPE_CHECKING":
            yield from _run_nodes(child)
