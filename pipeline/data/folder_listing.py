"""Which files of a folder are images of which class and split, what was left out, and all that is wrong with them."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.dataset import SPLITS
from pipeline.core.errors import InputError
from pipeline.core.paths import unreadable_reason
from pipeline.core.problems import NAMED, first_names

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
#: Other names that folders of validation images have.
_VALIDATION_TOO = ("val", "valid", "dev")
#: Names that are splits, not classes, in whatever case.
_SPLIT_LIKE = frozenset({*SPLITS, *_VALIDATION_TOO, "training", "testing", "eval"})
#: Folders that file managers and archives leave behind, and all whose names begin with a dot.
_LEFT_BEHIND = frozenset({"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"})
Listing = list[tuple[Path, int]]


@dataclass
class FolderListing:
    """The images of a folder by split ("all" where it has none), what was passed over, and what is wrong."""

    root: Path
    classes: tuple[str, ...]
    listings: dict[str, Listing] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def relative(self, path: Path) -> str:
        """Return a path as messages write it."""
        return path.relative_to(self.root).as_posix()

    def notes(self) -> tuple[str, ...]:
        """Say what was passed over."""
        notes = []
        if self.hidden:
            notes.append(f"hidden files and folders left out: {len(self.hidden):,} ({first_names(self.hidden)})")
        if self.others:
            kinds = Counter(Path(name).suffix.lower() or "none" for name in self.others).most_common(NAMED)
            counted = ", ".join(f"{suffix} {count:,}" for suffix, count in kinds)
            read = f"read are {', '.join(sorted(SUFFIXES))}"
            notes.append(f"files with other suffixes left out: {len(self.others):,} ({counted}; {read})")
        if deeper := self._deeper():
            notes.append(
                f"the images of every class are in {first_names(deeper)} below it; the classes are "
                f"{first_names(self.classes)}"
            )
        return tuple(notes)

    def _deeper(self) -> list[str]:
        """Return the folders below each class, where all images lie in them and all classes have the same."""
        split, listing = next(iter(self.listings.items()))
        depth = 1 if split == "all" else 2
        below: dict[int, set[str]] = {}
        for path, label in listing:
            first, *rest = path.relative_to(self.root).parts[depth:]
            if not rest:
                return []
            below.setdefault(label, set()).add(first)
        same = len({frozenset(names) for names in below.values()}) == 1
        return sorted(below[0]) if same and len(below[0]) > 1 else []


def _is_hidden(name: str) -> bool:
    """Whether a name is one that no person put there as data."""
    return name.startswith(".") or name in _LEFT_BEHIND


def _class_names(root: Path) -> tuple[str, ...]:
    """Return the sorted names of the class folders below `root`; raises InputError when there are fewer than two."""
    names = tuple(sorted(path.name for path in root.iterdir() if path.is_dir() and not _is_hidden(path.name)))
    if len(names) < 2:  # noqa: PLR2004
        raise InputError(
            f"{root} has {len(names)} class folders {list(names)}, expected at least two with images in each"
        )
    if all(name.casefold() in _SPLIT_LIKE for name in names):
        raise InputError(
            f"{root} has the folders {', '.join(names)}, which are splits: name them {', '.join(SPLITS)}, all three"
        )
    return names


def list_folder(root: Path) -> FolderListing:
    """Return everything below `root`, in name order. Raises InputError when it is no folder of class folders."""
    if not root.is_dir():
        raise InputError(f"data.root: {root} is not a folder")
    try:
        return _listed(root)
    except OSError as error:
        raise InputError(
            f"{error.filename or root} cannot be read: {error.strerror}. Give the right to read it."
        ) from error


def _listed(root: Path) -> FolderListing:
    if not (root / "train").is_dir():
        found = FolderListing(root, _class_names(root))
        _list_split(found, root, "all")
        return found
    folders = {split: _split_folder(root, split) for split in SPLITS}
    found = FolderListing(root, _class_names(folders["train"]))
    for split, folder in folders.items():
        _list_split(found, folder, split)
    found.hidden += [path.name for path in sorted(root.iterdir()) if _is_hidden(path.name)]
    return found


def _split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split; raises InputError that says what is there in its place."""
    names = (split, *_VALIDATION_TOO) if split == "validation" else (split,)
    there = [root / name for name in names if (root / name).is_dir()]
    if len(there) > 1:
        raise InputError(f"{root} has {' and '.join(path.name for path in there)}: keep only one of them")
    if there:
        return there[0]
    message = f"{root} has a train folder but no {split} folder: give all of {', '.join(SPLITS)}, or none"
    if not any(path.is_dir() and not _is_hidden(path.name) for path in (root / "train").iterdir()):
        message += ". If train is a class, give its folder another name"
    raise InputError(message)


def _list_split(found: FolderListing, folder: Path, split: str) -> None:
    names = _class_names(folder)
    if names != found.classes:
        more = [name for name in names if name not in found.classes]
        less = [name for name in found.classes if name not in names]
        found.problems += [f"{found.relative(folder / name)}: train has no such class" for name in more]
        found.problems += [f"{found.relative(folder)}: the class {name} of train has no folder" for name in less]
    found.hidden += [found.relative(path) for path in sorted(folder.iterdir()) if _is_hidden(path.name)]
    listing: Listing = []
    for index, name in enumerate(found.classes):
        images = _images(found, folder / name) if name in names else []
        if not images and name in names:
            looked = ", ".join(sorted(SUFFIXES))
            found.problems.append(f"{found.relative(folder / name)} has no images (looked for {looked})")
        listing += [(path, index) for path in images]
    found.listings[split] = listing


def _images(found: FolderListing, folder: Path) -> list[Path]:
    """Return the images of one class at any depth, sorted; linked folders below it are not followed."""
    images: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_raised):
        here = Path(place)
        found.hidden += [found.relative(here / name) for name in sorted((*folders, *files)) if _is_hidden(name)]
        linked = [name for name in folders if (here / name).is_symlink() and not _is_hidden(name)]
        found.problems += [f"{found.relative(here / name)}: a link to a folder is not followed" for name in linked]
        folders[:] = [name for name in folders if not _is_hidden(name) and name not in linked]
        for path in (here / name for name in files if not _is_hidden(name)):
            if path.suffix.lower() not in SUFFIXES:
                found.others.append(found.relative(path))
            elif why := unreadable_reason(path, "an image file"):
                found.problems.append(f"{found.relative(path)}: {why}")
            else:
                images.append(path)
    found.problems.sort()
    return sorted(images)


def _raised(error: OSError) -> None:
    raise error
