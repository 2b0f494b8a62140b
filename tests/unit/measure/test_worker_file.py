"""The worker as one file: the same bytes each time, and nothing beside the standard library, numpy and a runtime."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest

import pipeline
from pipeline.core.runtimes import RUNTIMES
from pipeline.measure import worker_file as module
from pipeline.measure.worker_file import MODULES, worker_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = Path(pipeline.__file__).parent
#: Runs the zip with none but the named folders and modules to import from, as on a device that has no more.
ISOLATED = """
import runpy, sys

worker, folders, refused = sys.argv[1], sys.argv[2].split(":"), set(sys.argv[3].split(","))

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError("not on this device: " + name)

sys.meta_path.insert(0, Refusal())
sys.path.extend(folders)
runpy.run_path(worker, run_name="__main__")
"""
REFUSED = ("pydantic", "pydantic_core", "typer", "rich", "torch", "onnx", "jinja2", "ruamel", "safetensors", "PIL")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return a cache folder of the test's own."""
    monkeypatch.setattr(module, "cache_root", lambda: tmp_path / "cache")
    worker_file.cache_clear()
    yield tmp_path / "cache"
    worker_file.cache_clear()


def ask(worker: Path, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the zip in an isolated Python and return its answers."""
    folders = {str(Path(each.__file__ or "").parents[1]) for each in (np, onnxruntime)}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ISOLATED, str(worker), ":".join(sorted(folders)), ",".join(REFUSED)],
        input="".join(json.dumps(each) + "\n" for each in requests),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_same_code_gives_the_same_file(fresh: Path) -> None:
    """The file's name is its hash; writing it again gives the same bytes and leaves nothing else behind."""
    first = worker_file()
    content = first.read_bytes()
    first.unlink()
    worker_file.cache_clear()
    assert worker_file() == first
    assert first.read_bytes() == content
    assert first.stem == hashlib.sha256(content).hexdigest()
    assert [path.name for path in (fresh / "worker").iterdir()] == [first.name]


@pytest.mark.usefixtures("fresh")
def test_file_that_was_cut_short_is_written_again() -> None:
    """A cached file of another size is not used."""
    path = worker_file()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    worker_file.cache_clear()
    assert worker_file().read_bytes() == whole


@pytest.mark.usefixtures("fresh")
def test_file_holds_the_modules_and_a_start() -> None:
    """Members are the package's own files, as they are, all of one date."""
    with zipfile.ZipFile(worker_file()) as archive:
        assert archive.namelist() == ["__main__.py", *(f"pipeline/{name}" for name in MODULES)]
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert all(archive.read(f"pipeline/{name}") == (PACKAGE / name).read_bytes() for name in MODULES)


def imported(name: str) -> set[str]:
    """Return the modules of this package that a file imports when it runs, not only for its annotations."""
    found: set[str] = set()

    class Imports(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            origin = node.module or ""
            found.update(f"{origin}.{each.name}" for each in node.names)
            found.add(origin)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(each.name for each in node.names)

    Imports().visit(ast.parse((PACKAGE / name).read_text()))
    return {each for each in found if each.partition(".")[0] == "pipeline"}


def test_modules_are_all_that_the_worker_imports() -> None:
    """Everything that a member imports from this package is a member, and every member but folders is imported."""
    files = {".".join(("pipeline", *Path(name).with_suffix("").parts)).removesuffix(".__init__") for name in MODULES}
    used = {"pipeline", "pipeline.measure.worker"}
    for name in MODULES:
        for each in imported(name):
            path = PACKAGE.parent.joinpath(*each.split("."))
            if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
                used.add(each)
    used |= {facts.adapter for facts in RUNTIMES.values() if facts.adapter}  # imported by these names
    parents = {each.rpartition(".")[0] for each in used}
    assert used - {"pipeline"} <= files
    assert files <= used | parents


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_worker_runs_where_there_is_nothing_but_numpy_and_a_runtime(
    runtime: str, write_onnx: Callable[..., Path]
) -> None:
    """Without the program's other libraries it says hello, checks, weighs, creates and times a file."""
    path = write_onnx("net.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file: dict[str, Any] = {"path": str(path), "sha256": {path.name: digest}, "runtime": runtime}
    file |= {"threads": 1, "batch": 1, "shapes": {}}
    answers = ask(
        worker_file(),
        {"op": "hello"},
        {"op": "weigh", "file": file, "seed": 0},
        {"op": "check", "file": file, "seed": 0},
        {"op": "create", "subject": 0, "file": file, "seed": 0},
        {"op": "rounds", "orders": [[0], [0]], "sizes": [3], "limit_ns": 10**12},
        {"op": "release"},
    )
    assert [each.keys() for each in answers] == [{"ok"}] * 6, answers
    assert answers[1]["ok"]["peak_rss_bytes"] > 1_000_000
    assert answers[2]["ok"]["outputs"][0]["shape"] == [1]
    assert [len(blocks[0]["wall_ns"]) for blocks in answers[4]["ok"]] == [3, 3]


@pytest.mark.usefixtures("fresh")
def test_refusal_of_libraries_works() -> None:
    """The test above means something: in that Python importing a refused library fails."""
    worker = worker_file()
    (worker.parent / "probe.py").write_text("import pydantic\n")
    with pytest.raises(AssertionError, match="not on this device: pydantic"):
        ask(worker.parent / "probe.py")
