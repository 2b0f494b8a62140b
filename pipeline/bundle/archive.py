"""A bundle as one file: a tar.gz whose bytes depend on the content alone, and opening one that may be hostile.

manifest.json comes first, so that a reader knows the name and size of every other member before it reads it. Unpacking
goes block by block and stops at the first byte that is not as such an archive has it: nothing is written but regular
files of the manifest, at their sizes, into a new folder.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from typing import TYPE_CHECKING, Any

from pipeline.bundle.on_device import verify
from pipeline.bundle.on_device.verify import (
    MANIFEST,
    SIGNATURE,
    SIGNATURE_BYTES,
    SUMS,
    TEXT_BYTES,
    Rejected,
    printable_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1 << 16
SUFFIX = ".tar.gz"


def write_archive(folder: Path, archive: Path) -> None:
    """Write the files of a folder as tar.gz: sorted after manifest.json, owner and time left out."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names.sort(key=lambda name: name != MANIFEST)
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as members,
    ):
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = (folder / name).stat().st_size
            member.mode = mode_of(name)
            with (folder / name).open("rb") as stream:
                members.addfile(member, stream)


def mode_of(name: str) -> int:
    """Return the permissions of a file of a bundle: programs can be started."""
    return 0o755 if name.endswith(".py") else 0o644


def is_archive_of_a_bundle(archive: Path) -> bool:
    """Say whether a file begins like the archive of a bundle: with a manifest.json that can be read."""
    try:
        with archive.open("rb") as raw:
            _read_manifest(_Unpacked(raw, archive.name))
    except Rejected:
        return False
    return True


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of an archive into a folder that is empty. Raises Rejected at the first thing that is wrong."""
    try:
        raw = archive.open("rb")
    except OSError as error:
        raise Rejected(f"{archive.name}: it cannot be read: {error.strerror}") from error
    with raw:
        stream = _Unpacked(raw, archive.name)
        content, manifest = _read_manifest(stream)
        (folder / MANIFEST).write_bytes(content)
        sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
        if sum(sizes.values()) > shutil.disk_usage(folder).free:
            raise Rejected(f"{archive.name}: it holds {sum(sizes.values()):,} bytes, more than are free in {folder}")
        _members(stream, folder, sizes)
        _end(stream)


def _read_manifest(stream: _Unpacked) -> tuple[bytes, dict[str, Any]]:
    """Return the first member, as bytes and as what it says."""
    header = _header(stream)
    if header is None or header.name != MANIFEST:
        first = "none" if header is None else printable_value(header.name)
        raise Rejected(f"{stream.name}: its first member is {first}, expected {MANIFEST}; give the .tar.gz of a bundle")
    if header.size > TEXT_BYTES:
        raise Rejected(f"{MANIFEST}: it has {header.size:,} bytes in {stream.name}, allowed: {TEXT_BYTES:,}")
    content = b"".join(_content(stream, header.size))
    return content, verify.read_manifest(content)


def _members(stream: _Unpacked, folder: Path, sizes: Mapping[str, int]) -> None:
    """Write every member behind the first; each must be one of the manifest, of that size, and come once."""
    most = {**sizes, SUMS: TEXT_BYTES, SIGNATURE: SIGNATURE_BYTES}
    seen: set[str] = {MANIFEST}
    while (header := _header(stream)) is not None:
        name = header.name
        if name in seen:
            raise Rejected(f"{name}: it is in {stream.name} twice")
        verify.check_name(name, stream.name)
        if name not in most:
            raise Rejected(f"{name}: {MANIFEST} does not name it")
        if header.size > most[name] or (name in sizes and header.size != sizes[name]):
            raise Rejected(f"{name}: it has {header.size:,} bytes in {stream.name}, {MANIFEST} says {most[name]:,}")
        seen.add(name)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as out:
            for block in _content(stream, header.size):
                out.write(block)
        path.chmod(mode_of(name))
    for name in (*sizes, SUMS):
        if name not in seen:
            raise Rejected(f"{name}: it is missing from {stream.name}")


def _header(stream: _Unpacked) -> tarfile.TarInfo | None:
    """Return the header of the next member, a regular file; None at the end of the archive."""
    block = stream.read(BLOCK)
    if not any(block):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "ascii", "backslashreplace")
    except tarfile.TarError as error:
        raise Rejected(f"{stream.name}: it is not a tar archive at byte {stream.at - BLOCK}: {error}") from error
    if header.type != tarfile.REGTYPE or header.linkname:
        kind = _KINDS.get(header.type, f"of the kind {header.type!r}")
        raise Rejected(f"{printable_value(header.name)}: it is {kind} in {stream.name}, allowed: regular files")
    if header.size < 0:
        raise Rejected(f"{printable_value(header.name)}: it has {header.size} bytes in {stream.name}")
    return header


_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
    tarfile.GNUTYPE_LONGNAME: "a long name",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def _content(stream: _Unpacked, size: int) -> Iterator[bytes]:
    """Yield a member's bytes in pieces; what fills up its last block has to be zero."""
    left = size
    while left:
        piece = stream.read(min(left, CHUNK))
        left -= len(piece)
        yield piece
    if any(stream.read(-size % BLOCK)):
        raise Rejected(f"{stream.name}: there is data between its members, at byte {stream.at}")


def _end(stream: _Unpacked) -> None:
    """Check that nothing follows the archive's end but zeros up to a whole record, and nothing the compressed data."""
    filling = 0
    while piece := stream.some(tarfile.RECORDSIZE):
        filling += len(piece)
        if any(piece) or filling > tarfile.RECORDSIZE:
            raise Rejected(f"{stream.name}: there is data after its last member, at byte {stream.at}")
    if stream.goes_on():
        raise Rejected(f"{stream.name}: there is data after the end of the compressed data")


class _Unpacked:
    """The content of a gzip file, read forward in pieces of limited size. `at` is the place in the content."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self.raw = raw
        self.name = name
        self.at = 0
        self._inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._waiting = b""

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        found = bytearray()
        while len(found) < size:
            piece = self.some(size - len(found))
            if not piece:
                raise Rejected(f"{self.name}: it ends too early, at byte {self.at}")
            found += piece
        return bytes(found)

    def some(self, at_most: int) -> bytes:
        """Return some bytes; none at the end of the compressed data."""
        while not self._inflater.eof:
            data = self._waiting or self.raw.read(CHUNK)
            if not data:
                raise Rejected(f"{self.name}: it is truncated: the compressed data do not end")
            try:
                piece = self._inflater.decompress(data, at_most)
            except zlib.error as error:
                raise Rejected(
                    f"{self.name}: it is not a gzip file, or is damaged, at byte {self.at}: {error}"
                ) from error
            self._waiting = self._inflater.unconsumed_tail
            if piece:
                self.at += len(piece)
                return piece
        return b""

    def goes_on(self) -> bool:
        """Say whether anything follows the end of the compressed data."""
        return bool(self._inflater.unused_data or self.raw.read(1))
