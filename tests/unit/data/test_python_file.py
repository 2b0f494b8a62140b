"""A user's data file is told apart by all that it is made of, modules and inputs too; other files are said."""

from __future__ import annotations

import sys
import sysconfig
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.core.files_read import users
from pipeline.core.local_imports import local_modules
from pipeline.data import python_file

if TYPE_CHECKING:
    from pathlib import Path

DATA = """
import numpy as np
from pathlib import Path
from pipeline.core.dataset import Dataset, Normalisation, Split
from shapes.draw import images
import names

def load():
    labels = np.load(Path(__file__).parent / "labels.npy")
    parts = [Split(images(len(labels), seed), labels) for seed in range(3)]
    return Dataset("own", names.CLASSES, Normalisation((0.5,), (0.2,)), *parts)
"""
DRAW = """
import numpy as np
from .more import SIDE

def images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, SIDE, SIDE)).astype(np.uint8)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a data file with a module, a package and a file of labels beside it."""
    (tmp_path / "shapes").mkdir()
    for name, text in (("mine.py", DATA), ("names.py", "CLASSES = ('a', 'b')"), ("shapes/__init__.py", ""),
                       ("shapes/draw.py", DRAW), ("shapes/more.py", "SIDE = 8"), ("unused.py", "")):  # fmt: skip
        (tmp_path / name).write_text(text)
    np.save(tmp_path / "labels.npy", np.arange(6) % 2)
    return tmp_path / "mine.py"


def test_modules_beside_it_are_found_and_imported(file: Path) -> None:
    """At any depth, by their text alone; afterwards another file's modules may have the same names."""
    assert list(local_modules(file)) == ["names", "shapes", "shapes.draw", "shapes.more"]
    assert python_file.load(file, {}).input_shape == (1, 8, 8)
    assert not {"names", "shapes", "shapes.draw"} & set(sys.modules)
    (file.parent / "names.py").write_text("CLASSES = ('c', 'd')")
    (file.parent / "shapes/more.py").write_text("SIDE = 12")
    found = python_file.load(file, {})
    assert (found.classes, found.input_shape) == (("c", "d"), (1, 12, 12))


@pytest.mark.parametrize("name", ["names.py", "shapes/draw.py", "shapes/more.py", "shapes/__init__.py"])
def test_a_change_of_a_module_is_another_digest(file: Path, name: str) -> None:
    """What is imported is part of what the data is; what is not imported is none."""
    before = python_file.digest(file, {})
    (file.parent / "unused.py").write_text("1")
    assert python_file.digest(file, {}) == before
    with (file.parent / name).open("a") as stream:
        stream.write("\n# changed")
    assert python_file.digest(file, {}) != before


def test_inputs_count_by_content(file: Path, tmp_path: Path) -> None:
    """A named file or folder: its content and names within it, whatever lies elsewhere, wherever it lies."""
    labels, folder = file.parent / "labels.npy", tmp_path / "images"
    folder.mkdir()
    (folder / "a").write_text("1")
    given = (labels, folder)
    before = python_file.digest(file, {}, given)
    assert before != python_file.digest(file, {})
    moved = tmp_path / "elsewhere" / "images"
    moved.parent.mkdir()
    folder.rename(moved)
    assert python_file.digest(file, {}, (labels, moved)) == before
    np.save(labels, np.arange(6)[::-1] % 2)
    changed = python_file.digest(file, {}, (labels, moved))
    (moved / "a").rename(moved / "b")
    assert len({before, changed, python_file.digest(file, {}, (labels, moved))}) == 3
    (moved / "gone").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"data\.inputs: 1 problem\n.*gone: a link to nowhere"):
        python_file.digest(file, {}, (labels, moved))


def test_files_that_are_read_without_being_named_are_said(file: Path) -> None:
    """Otherwise swapped labels would come out of the store; with the name that the note gives it is silent."""
    (note,) = python_file.load(file, {}).notes
    assert note.startswith("files that load() of mine.py reads and the recipe does not name: 1 (labels.npy)")
    assert note.endswith("Write inputs: [labels.npy] below data, or run with --fresh")
    assert python_file.load(file, {}, (file.parent / "labels.npy",)).notes == ()
    assert python_file.load(file, {}, (file.parent,)).notes == ()


def test_a_file_without_anything_beside_it_has_the_digest_that_it_had(tmp_path: Path) -> None:
    """Nothing that was stored before is lost: sha256 of text and arguments."""
    (tmp_path / "plain.py").write_text("import json\nfrom pipeline.core.dataset import Dataset\n")
    found = python_file.digest(tmp_path / "plain.py", {"count": 3})
    assert found == "faddaa78fac3130916482b18f709dd9be2c20545c231c002eff9078f7258feae"


def test_what_is_no_python_is_told_with_its_line(tmp_path: Path) -> None:
    """Before anything is run."""
    (tmp_path / "mine.py").write_text("x = 1\ndef load(:\n")
    with pytest.raises(InputError, match=r"mine\.py:2 is not Python: invalid syntax"):
        python_file.digest(tmp_path / "mine.py", {})


def test_files_of_the_users_are_told_from_the_systems_by_name() -> None:
    """Data may lie wherever disks are mounted, and in places that all users share."""
    own = ["/run/media/me/disk/a.npy", "/usr/local/share/a.npy", "/usr/share/datasets/a.npy", "/etc/classes.json"]
    own += ["/dev/shm/a.npy", "/home/me/a.npy", "/library/a.npy"]  # noqa: S108 - a name alone
    others = ["/proc/cpuinfo", "/sys/devices/system/cpu/online", "/etc/mime.types", "/usr/share/zoneinfo/UTC"]
    others += [f"{sysconfig.get_path('stdlib')}/a.json", np.__file__.replace("__init__.py", "a.json"), "/home/me/a.py"]
    assert users([*own, *others]) == own
