"""The house: a root that is a table of contents, and no ring of imports, inside functions and for types too."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PIPELINE = Path(__file__).resolve().parents[2] / "pipeline"


def module_of(file: Path) -> str:
    """Return the dotted name of a file."""
    parts = file.relative_to(PIPELINE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in PIPELINE.rglob("*.py")}


def imports(name: str) -> Iterator[str]:
    """Yield the modules that a module imports, anywhere in its text."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((each if each in MODULES else node.module) for each in inner if node.module in MODULES)


def ring(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of a ring; none where what imports nothing more can be taken away until nothing is left."""
    left = {name: set(others) for name, others in graph.items()}
    while leaves := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in leaves}
    return sorted(left)


def test_no_ring() -> None:
    """import-linter does not look into a layer."""
    assert len(MODULES) > 300
    assert ring({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["a", "b", "c"]
    assert ring({name: {*imports(name)} - {name} for name in MODULES}) == []


def test_the_root_is_a_table_of_contents() -> None:
    """Two files, and rooms with a sentence each."""
    assert sorted(file.name for file in PIPELINE.glob("*.py")) == ["__init__.py", "__main__.py"]
    rooms = [file.parent for file in PIPELINE.glob("*/__init__.py")]
    assert len(rooms) <= 21
    assert all(ast.get_docstring(ast.parse((room / "__init__.py").read_text())) for room in rooms)


#: Names that people and bundles use as they are.
ONE_WORD = {"main", "normalise"}


def test_functions_that_other_folders_import_have_two_words() -> None:
    """`write` and `load` say nothing where they are called, and nobody finds them by searching."""
    taken = [
        (module_of(file), alias.name, node.module)
        for file in PIPELINE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in MODULES
        for alias in node.names
        if f"{node.module}.{alias.name}" not in MODULES and MODULES[node.module].parent != file.parent
    ]
    assert len(taken) > 1000
    assert [each for each in taken if each[1].islower() and "_" not in each[1] and each[1] not in ONE_WORD] == []
