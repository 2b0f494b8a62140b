"""A content-addressed store of finished stages, shared by processes: nothing half-written is taken for finished.

Layout: `<root>/<first two digits>/<key>/` for what is finished, with a listing of its files (`pipeline.core.entry`),
`<root>/work/<key>/` for what is being made, and `<root>/locks/` for who makes and who uses what. A stage writes into
its working folder, which is listed, brought to the disk and renamed once it is complete; a killed stage finds it again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.core import entry
from pipeline.core.artifact import Artifact, StageRecord, payload_digest
from pipeline.core.entry import ARTIFACT_FILE, ENTRY_FILE, RECORD_FILE
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.locks import acquire, waited_for
from pipeline.core.partial import remove, sync_folder
from pipeline.core.paths import cache_root, content_of
from pipeline.core.units import parse_age

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pipeline.core.locks import Lock

_WAIT_VARIABLE = "SECATEUR_WAIT"
_DEFAULT_WAIT = "24h"
#: About how long the lock of an entry's users is held while it is being removed.
_REMOVAL_S = 0.01


def default_root() -> Path:
    """Return $SECATEUR_STORE, else `secateur/store` in the user's cache folder."""
    given = os.environ.get("SECATEUR_STORE")
    if given:
        return Path(given)
    return cache_root() / "store"


def default_wait_s() -> float:
    """Return how long a run waits for another that makes the same stage: $SECATEUR_WAIT, else a day.

    Raises:
        InputError: the variable is no time.
    """
    try:
        return parse_age(os.environ.get(_WAIT_VARIABLE) or _DEFAULT_WAIT)
    except ValueError as error:
        raise InputError(f"{_WAIT_VARIABLE}: {error}") from error


def _silent(text: str) -> None:
    """Tell nobody."""


def _always(folder: Path) -> str:  # noqa: ARG001 - the shape of `unfit`
    """Find nothing wrong with an entry."""
    return ""


class Store:
    """Finished entries by key. A process that uses one keeps it from being pruned until it calls `release`."""

    def __init__(self, root: Path, wait_s: float | None = None, *, aside: Store | None = None) -> None:
        """Take the folder, made on first use, and how long to wait for others; None is as `default_wait_s` says.

        `aside` is the store that a fresh run leaves aside for this one.
        """
        self.root, self.aside = root, aside
        self.wait_s = default_wait_s() if wait_s is None else wait_s
        self._seen: entry.Seen = {}
        self._uses: dict[str, Lock] = {}
        self._waited_for: set[str] = set()

    def folder(self, key: str) -> Path:
        """Return where the finished entry of `key` lies or would lie."""
        return self.root / key[:2] / key

    def has(self, key: str) -> bool:
        """Return whether the entry is finished and all of its files are what was written."""
        folder = self.folder(key)
        return folder.is_dir() and not entry.problem(folder, self._seen)

    def obtain(
        self,
        key: str,
        make: Callable[[Path], None],
        note: Callable[[str], None] = _silent,
        *,
        what: str = "the same stage",
        unfit: Callable[[Path], str] = _always,
    ) -> bool:
        """See to it that the entry of `key` is there and whole; return whether it was made here.

        Where another process is making it, this one waits and takes what that made. `make` writes into a folder in
        which it may find what an earlier, killed attempt left. A damaged entry is made again, and so is one of which
        `unfit` says why it does not fit; `note` is told of either.

        Raises:
            ResourceError: another process still makes it when the time to wait is over.
        """
        self._use(key)
        if self._adopted(key, unfit):
            return False
        with waited_for(self.lock_file(key), what, self.wait_s, self._once(note)) as left_by:
            folder = self.folder(key)
            wrong = (entry.problem(folder, self._seen) or unfit(folder)) if folder.is_dir() else "no folder"
            if not wrong:
                return False
            if left_by:
                note(f"{left_by} ended without finishing {what}: this run resumes from there")
            if os.path.lexists(folder):
                note(f"the stored {folder} is damaged or stale ({wrong}): it is made again")
                self._take_away(folder)
            self._make(key, make)
        return True

    def read(self, key: str) -> Artifact:
        """Return the artifact of a finished entry; raises ResourceError when its files are not what they were."""
        return read_artifact(self.folder(key))

    def release(self) -> None:
        """Let others prune what this process has used."""
        for lock in self._uses.values():
            lock.release()
        self._uses.clear()

    def _once(self, note: Callable[[str], None]) -> Callable[[str], None]:
        """Return the same without what was said of the same process before, whatever that is making now."""

        def say(text: str) -> None:
            who = text.partition(", which is making")[0]
            if who not in self._waited_for:
                self._waited_for.add(who)
                note(text)

        return say

    def _use(self, key: str) -> None:
        """Keep the entry from being pruned, and note that it was used now. Nothing is pruned that cannot be written."""
        if key in self._uses or (self.root.exists() and not os.access(self.root, os.W_OK)):
            return
        while (lock := acquire(self.use_file(key), shared=True)) is None:
            time.sleep(_REMOVAL_S)
        self._uses[key] = lock
        listing = self.folder(key) / ENTRY_FILE
        if listing.exists():
            os.utime(listing)

    def _adopted(self, key: str, unfit: Callable[[Path], str]) -> bool:
        """Return whether the entry is there, whole and fit; one without a listing gets it."""
        folder = self.folder(key)
        if not self.has(key) or unfit(folder):
            return False
        if not entry.is_listed(folder) and os.access(folder, os.W_OK) and (lock := acquire(self.lock_file(key))):
            entry.seal(folder)
            lock.release()
        return True

    def _make(self, key: str, make: Callable[[Path], None]) -> None:
        work, final = self.root / "work" / key, self.folder(key)
        work.mkdir(parents=True, exist_ok=True)
        if not entry.is_listed(work) or entry.problem(work):  # else it was killed between its listing and its new name
            (work / ENTRY_FILE).unlink(missing_ok=True)
            make(work)
            entry.seal(work)
        entry.clear(work)
        sync_folder(work)
        final.parent.mkdir(parents=True, exist_ok=True)
        work.rename(final)
        sync_folder(final.parent)

    def _take_away(self, folder: Path) -> None:
        """Remove an entry so that it is there whole or not at all; of one that is a link, the link."""
        away = self.root / "removed" / f"{folder.name}-{secrets.token_hex(4)}"
        away.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(away)
        remove(away)

    def lock_file(self, key: str) -> Path:
        """Return the file whose lock that process has which makes or mends an entry."""
        return self.root / "locks" / key

    def use_file(self, key: str) -> Path:
        """Return the file whose lock, shared, those have who use an entry."""
        return self.root / "locks" / f"{key}.use"


def read_artifact(folder: Path) -> Artifact:
    """Return the artifact in a folder; raises ResourceError when its files are not what they were."""
    try:
        stored = Artifact.model_validate_json(content_of(folder / ARTIFACT_FILE))
        digest = payload_digest(stored.form, folder)
    except (ValidationError, OSError) as error:
        raise ResourceError(
            f"{folder} holds no whole artifact: {str(error).splitlines()[0]}. Remove that folder and run again."
        ) from error
    if digest != stored.digest:
        raise ResourceError(
            f"the stored stage {folder} is damaged: its digest is not the recorded one. Remove that folder."
        )
    return stored.model_copy(update={"folder": folder})


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


def link_entry(source: Path, destination: Path, *, without: Collection[str] = ()) -> None:
    """Show the files of a stored entry, but its listing, in a new folder: hard links where there are, else copies."""
    remove(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in {ENTRY_FILE, *without}:
            try:
                os.link(path, destination / path.name)
            except OSError as error:
                if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
                    raise
                shutil.copyfile(path, destination / path.name)
