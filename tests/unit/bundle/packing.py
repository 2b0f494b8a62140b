"""Ways to write the archive of a bundle that no good archive is written in."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.unit.bundle.tampering import MODEL, PIXELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Packing:
    """An archive made from a good bundle's folder, and the text that the refusal has to say."""

    name: str
    pack: Callable[[Path], bytes]
    says: str


def members_of(folder: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the members of a bundle's archive, as headers with content."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [
        member(name, (folder / name).read_bytes()) for name in sorted(names, key=lambda name: name != "manifest.json")
    ]


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of an archive."""
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = len(content), kind, target
    return header, content


def tar(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return an uncompressed archive; headers are written as they are, whatever they say."""
    packed = io.BytesIO()
    for header, content in members:
        packed.write(header.tobuf(form, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512))
    packed.write(bytes(1024))
    packed.write(bytes(-packed.tell() % tarfile.RECORDSIZE))
    return packed.getvalue()


def packed(content: bytes) -> bytes:
    """Compress an archive."""
    return gzip.compress(content, mtime=0)


def more(*added: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> Callable[[Path], bytes]:
    """Add members behind those of a good bundle."""
    return lambda folder: packed(tar([*members_of(folder), *added], form))


def inside(name: str, header: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], bytes]:
    """Put another member in the place of one."""
    return lambda folder: packed(tar([header if each[0].name == name else each for each in members_of(folder)]))


def whole(edit: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    """Edit the compressed archive of a good bundle."""
    return lambda folder: edit(packed(tar(members_of(folder))))


def claims(name: str, size: int) -> Callable[[Path], bytes]:
    """Let a member claim another size than its content has."""

    def pack(folder: Path) -> bytes:
        members = members_of(folder)
        for header, _ in members:
            if header.name == name:
                header.size = size
        return packed(tar(members, tarfile.GNU_FORMAT))

    return pack


def reordered(folder: Path) -> bytes:
    """Put manifest.json last."""
    first, *rest = members_of(folder)
    return packed(tar([*rest, first]))


def without(name: str) -> Callable[[Path], bytes]:
    """Leave a member out."""
    return lambda folder: packed(tar([each for each in members_of(folder) if each[0].name != name]))


def bomb(folder: Path) -> bytes:
    """Let a small member go on for 256 MB of zeros, compressed to a quarter of one."""
    header, content = next(each for each in members_of(folder) if each[0].name == "manifest.json")
    begun = tar([(header, content)])[: 512 + len(content) + -len(content) % 512]
    labels = member("labels.txt")[0]
    labels.size = 256 << 20
    return packed(begun + labels.tobuf() + bytes(256 << 20))


def padding(folder: Path) -> bytes:
    """Hide something behind the content of a member, in its last block."""
    content = bytearray(tar(members_of(folder)))
    size = len((folder / "manifest.json").read_bytes())
    content[512 + size] = 1
    return packed(bytes(content))


ARCHIVES = (
    Packing("member: leads upwards", more(member("../outside.txt", b"x")), "../outside.txt"),
    Packing("member: absolute", more(member("/tmp/outside.txt", b"x")), "/tmp/outside.txt"),  # noqa: S108
    Packing("member: separator of Windows", more(member("..\\outside.txt", b"x")), "outside.txt"),
    Packing("member: drive letter", more(member("C:outside.txt", b"x")), "C:outside.txt"),
    Packing("member: differs by case", more(member("LABELS.txt", b"x")), "LABELS.txt"),
    Packing("member: not ASCII", more(member("e\u0301.txt", b"x")), "xcc"),
    Packing("member: not named by the manifest", more(member("notes.txt", b"x")), "notes.txt"),
    Packing("member: twice", lambda folder: more(members_of(folder)[-1])(folder), "twice"),
    Packing("member: a second manifest", lambda folder: more(members_of(folder)[0])(folder), "manifest.json"),
    Packing("member: a symbolic link", inside(MODEL, member(MODEL, kind=tarfile.SYMTYPE, target="/etc/passwd")), MODEL),
    Packing("member: a hard link", inside(MODEL, member(MODEL, kind=tarfile.LNKTYPE, target="labels.txt")), MODEL),
    Packing("member: a pipe", inside(MODEL, member(MODEL, kind=tarfile.FIFOTYPE)), MODEL),
    Packing("member: a device", inside(MODEL, member(MODEL, kind=tarfile.CHRTYPE)), MODEL),
    Packing("member: a block device", inside(MODEL, member(MODEL, kind=tarfile.BLKTYPE)), MODEL),
    Packing("member: a folder", inside(MODEL, member(MODEL, kind=tarfile.DIRTYPE)), "model"),
    Packing("member: sparse", inside(MODEL, member(MODEL, kind=tarfile.GNUTYPE_SPARSE)), MODEL),
    Packing("member: extended header", more(member("x" * 200, b"x"), form=tarfile.PAX_FORMAT), "extended header"),
    Packing("member: long name", more(member("x" * 200, b"x"), form=tarfile.GNU_FORMAT), "long name"),
    Packing("member: larger than the manifest says", claims("labels.txt", 10_000_000_000), "labels.txt"),
    Packing("member: smaller than the manifest says", claims("labels.txt", 1), "labels.txt"),
    Packing("member: less than nothing", claims("labels.txt", -512), "labels.txt"),
    Packing("member: empty", inside("labels.txt", member("labels.txt")), "labels.txt"),
    Packing("member: a manifest without end", claims("manifest.json", 1 << 40), "manifest.json"),
    Packing("member: another content", inside("labels.txt", member("labels.txt", b"x" * 21)), "labels.txt"),
    Packing("something in the padding", padding, "between its members"),
    Packing("a bomb", bomb, "labels.txt"),
    Packing("the manifest comes last", reordered, "manifest.json"),
    Packing("no manifest", without("manifest.json"), "manifest.json"),
    Packing("a file is missing", without(PIXELS), PIXELS),
    Packing("no sums", without("SHA256SUMS"), "SHA256SUMS"),
    Packing("cut off", whole(lambda content: content[: len(content) // 2]), "bundle.tar.gz"),
    Packing("cut off in its checksum", whole(lambda content: content[:-4]), "bundle.tar.gz"),
    Packing("checksum of gzip", whole(lambda content: content[:-8] + bytes(4) + content[-4:]), "bundle.tar.gz"),
    Packing("garbage behind the compressed data", whole(lambda content: content + b"x"), "after the end"),
    Packing("a second archive behind it", whole(lambda content: 2 * content), "after the end"),
    Packing(
        "garbage behind the last member", lambda folder: packed(tar(members_of(folder)) + b"x" * 512), "after its last"
    ),
    Packing("zeros without end", lambda folder: packed(tar(members_of(folder)) + bytes(1 << 20)), "after its last"),
    Packing("no end", lambda folder: packed(tar(members_of(folder)).rstrip(b"\0")), "too early"),
    Packing("not gzip", lambda folder: tar(members_of(folder)), "not a gzip"),
    Packing("not tar", lambda folder: packed(b"x" * 2048), "not a tar"),  # noqa: ARG005
    Packing("empty", lambda folder: b"", "bundle.tar.gz"),  # noqa: ARG005
    Packing("an empty archive", lambda folder: packed(bytes(10240)), "manifest.json"),  # noqa: ARG005
)
