"""`--fresh`: a run that takes nothing from the store, and whose stages take their places there once it is finished.

Until then they lie in a store of the run's own, in its folder: a run that was stopped resumes when it is started with
`--fresh` again, and other runs find what they found before.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.core.locks import waited_for
from pipeline.core.partial import partial_folder
from pipeline.core.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.core.stage import Progress

FOLDER = ".fresh"
ENTRIES = "[0-9a-f][0-9a-f]/*"


def own_store(store: Store, folder: Path) -> Store:
    """Return the store of its own that a fresh run into `folder` works with. Makes nothing."""
    return Store(folder / FOLDER, store.wait_s, aside=store)


@contextmanager
def store_of_run(store: Store, folder: Path, progress: Progress, *, fresh: bool) -> Iterator[Store]:
    """Give the store that a run into `folder` works with: `store`, or with `fresh` one of its own.

    The entries of its own go to `store` after the block. Where the block ends with an error they stay, and the next
    fresh run into the folder goes on from them.
    """
    if not fresh:
        yield store
        return
    own = own_store(store, folder)
    if any(own.root.glob(ENTRIES)):
        progress.note(f"--fresh resumes the run that was stopped; remove {own.root} to start over")
    yield own
    for entry in (folder for folder in sorted(own.root.glob(ENTRIES)) if own.has(folder.name)):
        _replace(entry, store, progress)
    shutil.rmtree(own.root)


def _replace(entry: Path, store: Store, progress: Progress) -> None:
    """Move an entry into the store, in place of the one of its key, once no other process is making that."""
    final = store.folder(entry.name)
    with (
        waited_for(store.lock_file(entry.name), "the same stage", store.wait_s, progress.note),
        partial_folder(final) as aside,
    ):
        shutil.move(entry, aside / "new")  # which copies where the store is on another disk
        if final.exists():
            final.rename(aside / "old")
        (aside / "new").rename(final)
