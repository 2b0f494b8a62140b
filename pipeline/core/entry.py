"""What a stored entry must hold: its listing, `entry.json`, with size and digest of every file.

Entries of before listings were written are judged by what they hold: the artifact by its own digest, and where it is
missing, whether the stage is one that leaves none.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from pipeline.core.artifact import (
    GAIN,
    ONCE_WITHOUT_FILE,
    Artifact,
    FrozenModel,
    StageRecord,
    file_digest,
    payload_digest,
)
from pipeline.core.partial import write_whole
from pipeline.core.paths import content_of
from pipeline.core.runtimes import FORMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENTRY_FILE = "entry.json"
ARTIFACT_FILE = "artifact.json"
RECORD_FILE = "record.json"
#: What a stage that was killed may leave beside its files.
_TEMPORARY = (".part", ".partial")
_PAYLOAD_FILES = frozenset(name for facts in FORMS.values() for name in facts.files)

#: Path to (inode, size, modification time): what a file had when its digest was last found right.
Seen = dict["Path", tuple[int, int, int]]


class EntryFile(FrozenModel):
    """One file of an entry."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Listing(FrozenModel):
    """The content of entry.json."""

    format: int = Field(default=1, ge=1, le=1)
    files: dict[str, EntryFile] = Field(min_length=1)


def seal(folder: Path) -> None:
    """Bring the files of a finished folder to the disk and list them; folders and temporaries in it do not count."""
    files = {path.name: EntryFile(bytes=path.stat().st_size, sha256=file_digest(path)) for path in _files(folder)}
    for name in files:
        _sync(folder / name)
    write_whole(folder / ENTRY_FILE, Listing(files=files).model_dump_json(indent=1) + "\n")


def clear(folder: Path) -> None:
    """Remove what a sealed folder does not list: folders and temporaries that its stage needed."""
    kept = {path.name for path in _files(folder)} | {ENTRY_FILE}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in kept:
            path.unlink()


def is_listed(folder: Path) -> bool:
    """Say whether a folder has a listing."""
    return (folder / ENTRY_FILE).is_file()


def problem(folder: Path, seen: Seen | None = None) -> str:
    """Say what is wrong with an entry; empty when it is whole.

    Files in `seen` that are as they were then are not read again; those that are read and right are added.
    """
    try:
        listing = Listing.model_validate_json(content_of(folder / ENTRY_FILE))
    except FileNotFoundError:
        return _problem_without_listing(folder)
    except (ValidationError, OSError) as error:
        return f"{ENTRY_FILE} cannot be read ({str(error).splitlines()[0]})"
    for name, listed in listing.files.items():
        path = folder / name
        found = "is missing" if path.name != name or not path.is_file() else _difference(path, listed, seen)
        if found:
            return f"{name} {found}"
    return ""


def kind_of(folder: Path) -> str:
    """Return what an entry is: a stage's kind, `original`, or `evaluation`."""
    record = _json(folder / RECORD_FILE)
    if isinstance(record, dict):
        return str(record.get("kind", "unknown"))
    artifact = _json(folder / ARTIFACT_FILE)
    if not isinstance(artifact, dict):
        return "evaluation"
    return "original" if artifact.get("form") == "torch" else "evaluation"


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != ENTRY_FILE and not path.name.endswith(_TEMPORARY):
            yield path


def _difference(path: Path, listed: EntryFile, seen: Seen | None) -> str:
    now = path.stat()
    if now.st_size != listed.bytes:
        return f"has {now.st_size} bytes in place of {listed.bytes}"
    signature = (now.st_ino, now.st_size, now.st_mtime_ns)
    if seen is not None and seen.get(path) == signature:
        return ""
    if file_digest(path) != listed.sha256:
        return "has other content than was written"
    if seen is not None:
        seen[path] = signature
    return ""


def _problem_without_listing(folder: Path) -> str:
    unreadable = [path.name for path in sorted(folder.glob("*.json")) if _json(path) is None]
    if unreadable:
        return f"{unreadable[0]} cannot be read"
    try:
        if not (folder / ARTIFACT_FILE).exists():
            return "" if _needs_no_artifact(folder) else f"{ARTIFACT_FILE} is missing"
        artifact = Artifact.model_validate_json(content_of(folder / ARTIFACT_FILE))
        whole = payload_digest(artifact.form, folder) == artifact.digest
    except (ValidationError, OSError) as error:
        return f"{ARTIFACT_FILE} or what it names cannot be read ({str(error).splitlines()[0]})"
    return "" if whole else "its files have other content than was written"


def _needs_no_artifact(folder: Path) -> bool:
    """Say whether an entry is that of a stage that only looks or was skipped, or of an evaluation."""
    names = {path.name for path in folder.iterdir()}
    if names & _PAYLOAD_FILES:
        return False
    if RECORD_FILE not in names:
        return "judgement.json" in names
    record = StageRecord.model_validate_json(content_of(folder / RECORD_FILE))
    return record.kind in ONCE_WITHOUT_FILE or record.changed.get(GAIN, {}).get("decision") == "skipped"


def _json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(content_of(path))
    except (ValueError, OSError):
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
