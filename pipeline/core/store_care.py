"""Looking after a store: what lies in it, what of that is damaged, and removing what was not used for long.

Safe beside running processes: what one of them uses or makes is locked, and is left alone.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.core import entry
from pipeline.core.artifact import FrozenModel
from pipeline.core.locks import acquire, holder
from pipeline.core.partial import SUFFIX, remove, remove_left_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pipeline.core.store import Store

#: `unlisted`: of an earlier version, and whole as far as that can be told.
State = Literal["whole", "unlisted", "damaged", "in the making"]
KEY = re.compile(r"[0-9a-f]{64}")


class EntryCheck(FrozenModel):
    """One entry: what it is, and what is wrong with it where it is damaged."""

    key: str
    kind: str
    folder: str
    state: State = Field(description="unlisted: from an earlier version, and intact as far as that can be checked")
    problem: str = ""


class PrunedEntries(FrozenModel):
    """What pruning removed, or would remove: entries by kind, unfinished work, and bytes that become free."""

    entries: dict[str, int]
    unfinished: int
    bytes: int = Field(description="of files that nothing outside the store links to")
    in_use: int = Field(description="old enough, but used or made by a process right now")
    kept: int


class StoreSize(FrozenModel):
    """What lies in the store. A file that several entries share counts once, with the first."""

    entries: dict[str, int]
    bytes_by_kind: dict[str, int]
    unfinished_bytes: int
    shared_bytes: int = Field(description="of files that run folders link to: removing entries does not free them")

    @property
    def bytes(self) -> int:
        """All bytes of entries and unfinished work."""
        return sum(self.bytes_by_kind.values()) + self.unfinished_bytes


def folders(store: Store) -> list[Path]:
    """Return the folders of all finished entries, by key."""
    found = (path for shelf in _children(store.root) if len(shelf.name) == len("ab") for path in _children(shelf))
    return [path for path in found if KEY.fullmatch(path.name) and path.is_dir()]


def check_entries(store: Store, report: Callable[[int, int], None]) -> list[EntryCheck]:
    """Read every file of every entry and say which entries are damaged. Changes nothing.

    `report` is told how many of how many entries are done. A damaged entry is made again by the next run that needs it.
    """
    found = []
    everything = folders(store)
    for done, folder in enumerate(everything, 1):
        found.append(_checked(store, folder))
        report(done, len(everything))
    return found


def prune_entries(store: Store, older_s: float, *, dry_run: bool = False) -> PrunedEntries:
    """Remove entries and unfinished work that no run has used for `older_s` seconds; with `dry_run` only count."""
    limit = time.time() - older_s
    removed: dict[str, int] = {}
    counts = {"bytes": 0, "in_use": 0, "kept": 0}
    for folder in folders(store):
        if _last_used(folder) > limit:
            counts["kept"] += 1
            continue
        kind, size = entry.kind_of(folder), _free_bytes(folder)
        if _remove(store.use_file(folder.name), folder, dry_run=dry_run, limit=limit):
            removed[kind] = removed.get(kind, 0) + 1
            counts["bytes"] += size
        else:
            counts["in_use"] += 1
    unfinished = 0
    for folder in _unfinished(store):
        if _newest(folder) <= limit:
            size = _free_bytes(folder)
            if _remove(store.lock_file(folder.name), folder, dry_run=dry_run, limit=limit):
                unfinished += 1
                counts["bytes"] += size
            else:
                counts["in_use"] += 1
    if not dry_run:
        _tidy_locks(store, limit)
    return PrunedEntries(entries=removed, unfinished=unfinished, **counts)


def count_entries(store: Store) -> StoreSize:
    """Count entries and bytes by kind."""
    entries: dict[str, int] = {}
    by_kind: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    shared = 0
    for folder in folders(store):
        kind = entry.kind_of(folder)
        entries[kind] = entries.get(kind, 0) + 1
        for path in _files([folder]):
            status = path.stat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                by_kind[kind] = by_kind.get(kind, 0) + status.st_size
                shared += status.st_size if status.st_nlink > 1 else 0
    unfinished = sum(path.stat().st_size for path in _files(_unfinished(store)))
    return StoreSize(entries=entries, bytes_by_kind=by_kind, unfinished_bytes=unfinished, shared_bytes=shared)


def _checked(store: Store, folder: Path) -> EntryCheck:
    listed, wrong = entry.is_listed(folder), entry.problem(folder)
    state: State = "whole" if listed else "unlisted"
    if wrong:
        # Another process may be making it again right now: then what was seen is neither old nor new.
        lock = acquire(store.lock_file(folder.name))
        if lock is None:
            state, wrong = "in the making", f"by {holder(store.lock_file(folder.name))}"
        else:
            wrong = entry.problem(folder)
            state = "damaged" if wrong else state
            lock.release()
    return EntryCheck(key=folder.name, kind=entry.kind_of(folder), folder=str(folder), state=state, problem=wrong)


def _remove(lock_file: Path, folder: Path, *, dry_run: bool, limit: float) -> bool:
    """Remove a folder unless a process has its lock or has used it since; say whether it was (or would be) removed."""
    lock = acquire(lock_file)
    if lock is None:
        return False
    try:
        if _last_used(folder) > limit:
            return False
        if not dry_run:
            away = folder.with_name(f".{folder.name}.removed")
            remove(away, ignore_errors=True)
            folder.rename(away)
            remove(away)
        return True
    finally:
        lock.release()


def _tidy_locks(store: Store, limit: float) -> None:
    """Remove files of locks that nobody holds and that guard nothing, and what a killed process was removing."""
    present = {folder.name for folder in (*folders(store), *_unfinished(store))}
    for path in _children(store.root / "locks"):
        if path.name.removesuffix(".use") not in present and path.stat().st_mtime <= limit:
            lock = acquire(path)
            if lock is not None:
                path.unlink()
                lock.release()
    for shelf in (store.root / "removed", *_children(store.root)):
        for path in _children(shelf):
            if shelf.name == "removed" or path.name.endswith(".removed"):
                remove(path, ignore_errors=True)  # another process may be doing the same
            elif path.name.endswith(SUFFIX):
                remove_left_over(shelf / path.name[1:].partition(".")[0])


def _last_used(folder: Path) -> float:
    listing = folder / entry.ENTRY_FILE
    return listing.stat().st_mtime if listing.exists() else _newest(folder)


def _newest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *_files([folder])))


def _unfinished(store: Store) -> list[Path]:
    return [path for path in _children(store.root / "work") if KEY.fullmatch(path.name) and path.is_dir()]


def _files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        yield from (path for path in sorted(place.rglob("*")) if path.is_file() and not path.is_symlink())


def _free_bytes(folder: Path) -> int:
    if folder.is_symlink():  # what it leads to stays
        return 0
    return sum(status.st_size for status in (path.stat() for path in _files([folder])) if status.st_nlink == 1)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
