"""The archive of a bundle: the same bytes from the same files, and back to the same files."""

from __future__ import annotations

import gzip
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from pipeline.bundle.archive import is_archive_of_a_bundle, unpack, write_archive
from pipeline.bundle.on_device.verify import Rejected
from tests.unit.bundle.tampering import sha256

if TYPE_CHECKING:
    from pathlib import Path


def files(folder: Path) -> dict[str, str]:
    """Return every file below a folder with its sha256."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_header_says_nothing_of_this_machine(made: Path) -> None:
    """manifest.json first, then sorted; no owner, no time, no name in gzip's header."""
    archive = made / "bundle.tar.gz"
    assert archive.read_bytes()[:9] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02"
    with tarfile.open(archive) as members:
        headers = members.getmembers()
    names = [header.name for header in headers]
    assert names == ["manifest.json", *sorted(set(files(made / "bundle")) - {"manifest.json"})]
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime) for each in headers} == {(0, 0, "", "", 0)}
    assert {each.mode for each in headers if each.name.endswith(".py")} == {0o755}
    assert {each.mode for each in headers if not each.name.endswith(".py")} == {0o644}


def test_bytes_depend_on_content_alone(good: Path, made: Path, tmp_path: Path) -> None:
    """Not on times, modes or the order in which a folder was filled."""
    for path in sorted(good.rglob("*"), reverse=True):
        if path.is_file():
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
            path.chmod(0o600)
            os.utime(path, (1, 1))
    write_archive(good, tmp_path / "again.tar.gz")
    assert sha256(tmp_path / "again.tar.gz") == sha256(made / "bundle.tar.gz")


def test_unpacked_is_what_was_packed(made: Path, tmp_path: Path) -> None:
    """Every file comes back with its content, and programs can be started."""
    unpack(made / "bundle.tar.gz", tmp_path)
    assert files(tmp_path) == files(made / "bundle")
    assert (tmp_path / "verify.py").stat().st_mode & 0o111


def test_tar_and_sha256sum_read_it(made: Path, tmp_path: Path) -> None:
    """A person without any program of ours can open and check it."""
    with tarfile.open(made / "bundle.tar.gz") as members:
        members.extractall(tmp_path, filter="data")
    for line in (tmp_path / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert sha256(tmp_path / name) == digest


@pytest.mark.parametrize(
    ("content", "answer"), [(b"hello", False), (gzip.compress(b"hello", mtime=0), False), (None, True)]
)
def test_what_looks_like_an_archive_of_a_bundle(
    made: Path, tmp_path: Path, content: bytes | None, *, answer: bool
) -> None:
    """Only what begins with a manifest does."""
    (tmp_path / "file").write_bytes((made / "bundle.tar.gz").read_bytes() if content is None else content)
    assert is_archive_of_a_bundle(tmp_path / "file") is answer


def test_more_than_the_disk_holds(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are known before anything large is written."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.statvfs(path) and type("Usage", (), {"free": 1000}))
    with pytest.raises(Rejected, match="more than are free"):
        unpack(made / "bundle.tar.gz", tmp_path)
    assert set(files(tmp_path)) <= {"manifest.json"}
