"""What the user's code reads and imports is known: named inputs by content, the rest while it runs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.core.code_inputs import content_digest, input_digests, recorded_dependencies, undeclared_inputs
from pipeline.core.errors import InputError
from pipeline.core.user_code import import_file

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import sys
import json
import numpy
sys.path.insert(0, {folder!r})
import far_parts
from far_package.inner import WIDTH

def build(table="a.npy"):
    with open({folder!r} + "/sizes.json") as stream:
        return json.load(stream), far_parts.ONE, WIDTH
"""


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """Return a folder with a module, a package whose module imports another, and a file."""
    folder = tmp_path / "far"
    (folder / "far_package").mkdir(parents=True)
    texts = {"far_parts.py": "ONE = 1", "sizes.json": "[1]", "far_package/__init__.py": ""}
    texts |= {"far_package/inner.py": "from .most import WIDTH", "far_package/most.py": "WIDTH = 3"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def code(far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that uses all of it; what it imports is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("far_parts", "far_package", "far_package.inner", "far_package.most"):
        monkeypatch.setitem(sys.modules, name, sys)
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "project").mkdir()
    file = tmp_path / "project" / "model.py"
    file.write_text(CODE.format(folder=str(far)))
    return file


def found(code: Path) -> set[Path]:
    """Return what the file reads and imports."""
    with recorded_dependencies(code) as read:
        assert import_file(code, "test").build() == ([1], 1, 3)
    return read


def test_files_and_modules_elsewhere_are_found_each_time(code: Path, far: Path) -> None:
    """Also where Python has the modules already; packages that are installed do not count."""
    names = ("sizes.json", "far_parts.py", "far_package/__init__.py", "far_package/inner.py", "far_package/most.py")
    assert found(code) == found(code) == {far / name for name in names}


def test_what_is_not_named_is_said(code: Path, far: Path, tmp_path: Path) -> None:
    """With the line that names it, after which nothing is said."""
    (note,) = undeclared_inputs(found(code), code, {}, (), "build model")
    assert note.startswith("files that build() of model.py reads and the recipe does not name: 5 (../far/far_package/")
    assert note.endswith("Write inputs: [../far] below model")
    assert undeclared_inputs(found(code), code, {}, (far,), "build model") == ()
    (note,) = undeclared_inputs(found(code), code, {}, (far / "far_package", far / "sizes.json"), "build from")
    assert note.endswith("Write inputs: [../far/far_parts.py] below from")
    link = tmp_path / "link"
    link.symlink_to(far)
    assert undeclared_inputs(found(code), code, {}, (link,), "build model") == ()


def test_what_code_or_arguments_name_is_said_too(code: Path, far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that are no Python open files unseen: texts that are files' names count, beside the code or here."""
    np.save(code.parent / "a.npy", np.zeros(1))
    (far / "b.bin").write_text("1")
    (note,) = undeclared_inputs(set(), code, {"weights": str(far / "b.bin")}, (far / "sizes.json",), "build model")
    assert note.endswith("Write inputs: [../far/b.bin, a.npy] below model")
    monkeypatch.chdir(far)
    (note,) = undeclared_inputs(set(), code, {"weights": "b.bin"}, (code.parent, far / "sizes.json"), "build model")
    assert note.endswith("Write inputs: [../far/b.bin] below model")


def test_a_folder_counts_by_the_names_and_content_of_its_files(far: Path) -> None:
    """Not by where it lies, nor by what Python keeps there; a link to nowhere is refused by name."""
    before = content_digest(far)
    (far / "__pycache__").mkdir()
    (far / "__pycache__" / "x.pyc").write_text("1")
    moved = far.parent / "moved" / "far"
    moved.parent.mkdir()
    far.rename(moved)
    assert content_digest(moved) == before
    (moved / "sizes.json").rename(moved / "size.json")
    assert content_digest(moved) != before
    (moved / "gone").symlink_to("nowhere")
    os.mkfifo(moved / "pipe")
    with pytest.raises(InputError, match=r"model\.inputs: 2 problems\n.*gone: a link to nowhere(.|\n)*pipe: a named"):
        list(input_digests((moved,), "model.inputs"))
