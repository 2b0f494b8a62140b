"""Where a bundle is put: whole or not at all, never over what is no bundle."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pipeline.bundle import assemble, place
from pipeline.bundle.place import write_beside_run, write_bundle
from pipeline.core.errors import InputError, ResourceError, StageError
from tests.unit.bundle.small_content import content
from tests.unit.bundle.tampering import sha256
from tests.unit.bundle.test_archive import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.bundle.content import Content


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """Return what a bundle is made from."""
    return content(tmp_path_factory.mktemp("given") / "run", runtimes=("onnxruntime",))


def test_written_beside_the_run(given: Content) -> None:
    """The record says where it is and what it is known by."""
    record = write_beside_run(given)
    folder, archive = given.run_folder / record.folder, given.run_folder / record.archive
    assert record.digest == f"sha256:{sha256(folder / 'SHA256SUMS')}"
    assert record.archive_bytes == archive.stat().st_size
    assert not list(given.run_folder.glob("*.partial"))
    assert not list(given.run_folder.glob(".*"))


def test_a_bundle_is_replaced(given: Content, tmp_path: Path) -> None:
    """One that was there before, whatever became of its files, and an empty folder too."""
    (tmp_path / "empty").mkdir()
    places = (tmp_path / "bundle", tmp_path / "bundle.tar.gz", tmp_path / "empty")
    digest = write_bundle(given, places)
    (tmp_path / "bundle" / "labels.txt").write_text("changed\n")
    (tmp_path / "bundle" / "__pycache__").mkdir()
    (tmp_path / "bundle" / "__pycache__" / "infer.pyc").write_bytes(b"")
    assert write_bundle(given, places) == digest
    assert files(tmp_path / "bundle") == files(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.tar.gz", "empty"]


def folder_of_mine(path: Path) -> None:
    """Make a folder with a person's file."""
    path.mkdir()
    (path / "thesis.txt").write_text("years of work\n")


def bundle_with_more(path: Path) -> None:
    """Make what looks like a bundle and has a person's file."""
    write_bundle(content(path.parent / "other", runtimes=("onnxruntime",)), (path,))
    (path / "thesis.txt").write_text("years of work\n")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("mine", folder_of_mine),
        ("mine", bundle_with_more),
        ("mine", lambda path: path.write_text("a file\n")),
        ("mine", lambda path: path.symlink_to("nowhere")),
        ("mine.tar.gz", lambda path: path.write_bytes(b"another archive")),
        ("mine.tar.gz", folder_of_mine),
    ],
    ids=["folder", "bundle with a file more", "file", "link", "archive", "folder named like an archive"],
)
def test_what_is_no_bundle_is_never_replaced(
    given: Content, tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    """It is refused before anything is made, and everything is as it was."""
    make(tmp_path / name)
    before = files(tmp_path)
    with pytest.raises(InputError, match=name):
        write_bundle(given, (tmp_path / name,))
    assert files(tmp_path) == before


def full(*_: object) -> None:
    """Fail as a full disk does."""
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.mark.parametrize("where", ["_write_models", "write_manifest"])
def test_a_full_disk_leaves_what_was_there(
    given: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """One message, no half of a bundle, no rest."""
    write_bundle(given, (tmp_path / "bundle",))
    before = files(tmp_path)
    monkeypatch.setattr(assemble, where, full)
    with pytest.raises(ResourceError, match="No space left"):
        write_bundle(given, (tmp_path / "bundle",))
    assert files(tmp_path) == before


def test_a_bundle_that_fails_its_own_check(given: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not written: who made it is told, not who gets it."""
    monkeypatch.setattr("pipeline.bundle.on_device.verify.TEXT_BYTES", 100)
    with pytest.raises(StageError, match=r"manifest\.json"):
        write_bundle(given, (tmp_path / "bundle",))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_it_is_put_in_place(given: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive of before is still there."""
    write_bundle(given, (tmp_path / "bundle.tar.gz",))
    before = files(tmp_path)
    monkeypatch.setattr(place, "write_archive", full)
    with pytest.raises(ResourceError, match="Free some space"):
        write_bundle(given, (tmp_path / "bundle.tar.gz",))
    assert files(tmp_path) == before
