"""`--fresh`: a run that takes nothing from the store, and whose stages take their places there once it is finished.

Until then they lie in a store of the run's own, in its folder: a run that was stopped resumes when it is started with
`--fresh` again, and other runs find what they found before.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.core.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.core.stage import Progress

FOLDER = ".fresh"
ENTRIES = "[0-9a-f][0-9a-f]/*"


@contextmanager
def store_of_run(store: Store, folder: Path, progress: Progress, *, fresh: bool) -> Iterator[Store]:
    """Give the store that a run into `folder` works with: `store`, or with `fresh` one of its own.

    The entries of its own go to `store` after the block. Where the block ends with an error they stay, and the next
    fresh run into the folder goes on from them.
    """
    if not fresh:
        yield store
        return
    own = Store(folder / FOLDER)
    begun = sum(1 for _ in own.root.glob(ENTRIES))
    if begun:
        progress.note(
            f"--fresh goes on from {begun} results of the one that was stopped; remove {own.root} to begin anew"
        )
    yield own
    for entry in sorted(own.root.glob(ENTRIES)):
        _replace(entry, store)
    shutil.rmtree(own.root)


def _replace(entry: Path, store: Store) -> None:
    """Move an entry into the store, in place of the one of its key; a reader finds one of the two whole."""
    final, aside = store.folder(entry.name), store.root / "aside"
    arriving, leaving = (aside / f"{entry.name}-{secrets.token_hex(4)}" for _ in range(2))
    aside.mkdir(parents=True, exist_ok=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(entry, arriving)  # which copies where the store is on another disk
    if final.exists():
        final.rename(leaving)
    arriving.rename(final)
    shutil.rmtree(leaving, ignore_errors=True)
