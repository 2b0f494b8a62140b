"""A content-addressed store of finished stages, and locks, so that nothing half-written is ever taken for finished.

Layout: `<root>/<first two digits>/<key>/` for what is finished, `<root>/work/<key>/` for what is being made. A stage
writes into its working folder, which is renamed once it is complete; a killed stage finds its working folder again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.artifact import Artifact, StageRecord, payload_digest
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.paths import cache_root

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ARTIFACT_FILE = "artifact.json"
RECORD_FILE = "record.json"


def default_root() -> Path:
    """Return $SECATEUR_STORE, else `secateur/store` in the user's cache folder."""
    given = os.environ.get("SECATEUR_STORE")
    if given:
        return Path(given)
    return cache_root() / "store"


@contextmanager
def locked(file: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock on `file` for the block; raises InputError with the text `busy` when another has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(busy) from error
        yield


class Store:
    """Finished stages by key."""

    def __init__(self, root: Path) -> None:
        """Take the folder; it is made on first use."""
        self.root = root

    def folder(self, key: str) -> Path:
        """Return where the finished entry of `key` lies or would lie."""
        return self.root / key[:2] / key

    def has(self, key: str) -> bool:
        """Return whether the entry is finished."""
        return self.folder(key).is_dir()

    @contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """Give the working folder of `key`, locked; when the block ends without an error, the entry is finished."""
        work = self.root / "work" / key
        busy = f"another run is making the same stage ({key[:12]}) right now: wait for it, or stop it"
        with locked(self.root / "locks" / key, busy):
            work.mkdir(parents=True, exist_ok=True)
            yield work
            final = self.folder(key)
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists():
                shutil.rmtree(work)
            else:
                work.rename(final)

    def read(self, key: str) -> Artifact:
        """Return the artifact of a finished entry; raises ResourceError when its files are not what they were."""
        return read_artifact(self.folder(key))


def read_artifact(folder: Path) -> Artifact:
    """Return the artifact in a folder; raises ResourceError when its files are not what they were."""
    stored = Artifact.model_validate_json((folder / ARTIFACT_FILE).read_text())
    artifact = stored.model_copy(update={"folder": folder})
    if payload_digest(artifact.form, folder) != artifact.digest:
        message = f"the stored stage {folder} is damaged: its digest is not the recorded one. Remove that folder."
        raise ResourceError(message)
    return artifact


def write_artifact(artifact: Artifact, folder: Path) -> None:
    """Write artifact.json into `folder`; the path in it is a placeholder, since the entry is about to be renamed."""
    text = artifact.model_copy(update={"folder": Path()}).model_dump_json(indent=1)
    (folder / ARTIFACT_FILE).write_text(text + "\n")


def read_record(folder: Path) -> StageRecord | None:
    """Return what the stage that made an entry did; None for the original, which no stage made."""
    file = folder / RECORD_FILE
    return StageRecord.model_validate_json(file.read_text()) if file.exists() else None


def write_record(record: StageRecord, folder: Path) -> None:
    """Write record.json into `folder`."""
    (folder / RECORD_FILE).write_text(record.model_dump_json(indent=1) + "\n")


def link_entry(entry: Path, destination: Path, *, without: Collection[str] = ()) -> None:
    """Show the files of a stored entry in a new folder: hard links where the file system has them, else copies."""
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    for path in sorted(entry.iterdir()):
        if path.is_file() and path.name not in without:
            try:
                os.link(path, destination / path.name)
            except OSError as error:
                if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
                    raise
                shutil.copyfile(path, destination / path.name)
