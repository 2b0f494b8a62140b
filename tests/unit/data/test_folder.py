"""A folder as people have it: hidden files, links, pipes, copies and damaged images are all told, in one message."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.data import folder
from pipeline.data.accepted import accepted

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.dataset import Dataset


def draw(file: Path, seed: int, size: tuple[int, int] = (20, 20)) -> None:
    """Write an image that no other seed gives."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)).save(file)


def fill(root: Path, count: int = 8, start: int = 0) -> None:
    """Write two classes."""
    for index in range(2 * count):
        draw(root / "ab"[index % 2] / f"{index}.png", start + index)


def load(root: Path, channels: int = 3, white: float | None = None) -> Dataset:
    """Load it, after its digest as a run does."""
    folder.digest(root)
    return folder.load(root, 16, channels, (), (), white)


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints/0-checkpoint.png", "._0.png", ".git/x.png", "@eaDir/0.png", "deep/.thumbnails/0.png"]
)
def test_what_is_hidden_is_left_out_with_a_word(tmp_path: Path, name: str) -> None:
    """Copies that editors and file managers keep are no images of a class, and change nothing."""
    fill(tmp_path)
    before, images = folder.digest(tmp_path), len(load(tmp_path).train)
    (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / name)
    found = load(tmp_path)
    assert (folder.digest(tmp_path), len(found.train)) == (before, images)
    hidden = "/".join(name.split("/")[: 2 if name.startswith("deep") else 1])
    assert found.notes == (f"hidden files and folders left out: 1 (a/{hidden})",)


def test_other_suffixes_are_counted(tmp_path: Path) -> None:
    """Files that are not read are said, so that nobody thinks that they were."""
    fill(tmp_path)
    for index in range(3):
        (tmp_path / "b" / f"{index}.gif").touch()
    (tmp_path / "a" / "notes.txt").touch()
    assert load(tmp_path).notes[0].startswith("files with other suffixes left out: 4 (.gif 3, .txt 1; read are .bmp")


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Links to nowhere, pipes, damaged and foreign content, in name order, by digest and load alike."""
    fill(tmp_path)
    bad = tmp_path / "a"
    (bad / "link.png").symlink_to("nowhere.png")
    os.mkfifo(bad / "pipe.png")
    (bad / "empty.jpg").touch()
    (bad / "text.png").write_text("no image")
    (bad / "gif.png").write_bytes(b"GIF89a" + bytes(40))
    (bad / "cut.png").write_bytes((bad / "0.png").read_bytes()[:-400])
    turned = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(turned, "PNG", exif=b"MM\0*" + bytes(8))
    (bad / "late.png").write_bytes(turned.getvalue()[:-25])
    (tmp_path / "b" / "more").symlink_to(bad)
    (bad / "folder.png").mkdir()
    told = (
        "a/link.png: a link to nowhere.png, which is not there",
        "a/pipe.png: a named pipe, not an image file",
        "b/more: a link to a folder is not followed",
        "a/cut.png cannot be read as an image (",
        "a/empty.jpg cannot be read as an image: it is not one of PNG, JPEG, BMP, WEBP, TIFF",
        "a/gif.png cannot be read as an image: it is not one of",
        "a/late.png cannot be read as an image (",
        "a/text.png cannot be read as an image: it is not one of",
    )
    for action in (folder.digest, load):
        with pytest.raises(InputError) as error:
            action(tmp_path)
        first, *lines, last = str(error.value).splitlines()
        assert first == f"{tmp_path}: 8 problems"
        assert all(line.startswith(f"  {start}") for line, start in zip(lines, told, strict=True)), lines
        assert last.startswith("Fix, replace or remove them")


def test_names_reach_no_terminal_as_they_are(tmp_path: Path) -> None:
    """Control characters of names are written as escapes, in problems and in notes."""
    fill(tmp_path)
    (tmp_path / "a" / "x\x1b[31m\n.txt").touch()
    (tmp_path / "a" / ".h\u202e.png").touch()
    assert load(tmp_path).notes[0] == r"hidden files and folders left out: 1 (a/.h\u202e.png)"
    (tmp_path / "b" / "x\x1b[31m\n.png").touch()
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert str(error.value).splitlines()[1].startswith(r"  b/x\x1b[31m\n.png cannot be read")


def test_many_problems_are_counted(tmp_path: Path) -> None:
    """The first are told in words, the rest as a number."""
    fill(tmp_path)
    for index in range(30):
        (tmp_path / "a" / f"x{index:02d}.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"30 problems\n(.*\n){12}  and 18 more\nFix"):
        folder.digest(tmp_path)


def test_the_digest_of_plain_images_is_names_and_content(tmp_path: Path) -> None:
    """What is read as ever is in the store as ever; an image of 16 bits, which is read anew, is told apart."""
    fill(tmp_path, 2)
    total = hashlib.sha256()
    for file in sorted(tmp_path.rglob("*.png")):
        total.update(f"{file.relative_to(tmp_path).as_posix()}\n".encode() + file.read_bytes())
    assert folder.digest(tmp_path) == total.hexdigest()
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "b" / "9.png")
    total.update(b"b/9.png\n" + (tmp_path / "b" / "9.png").read_bytes())
    assert folder.digest(tmp_path) != total.hexdigest()
    total.update(b"deep\n")
    assert folder.digest(tmp_path) == total.hexdigest()


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_line_of_pixels_is_refused_before_it_is_made_larger(tmp_path: Path, size: tuple[int, int]) -> None:
    """Covering a square with it would take gigabytes; at a small size it is an image as any other."""
    fill(tmp_path)
    draw(tmp_path / "a" / "thin.png", 99, size)
    assert len(load(tmp_path).train) > 0
    with pytest.raises(InputError, match=r"thin\.png has \d+ x \d+ pixels, which makes .* at size 512, allowed: up to"):
        folder.load(tmp_path, 512, 3, (), (), None)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that says that it is larger than what Pillow warns of is told by name, not warned of and read."""
    fill(tmp_path)
    draw(tmp_path / "a" / "big.png", 99, (60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(InputError, match=r"1 problem\n  a/big\.png has more than [\d,]+ pixels"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_splits_that_share_images(tmp_path: Path, name: str) -> None:
    """Copies between splits are warned of with names; folders of validation images may have their usual names."""
    for start, split in enumerate(("train", name, "test")):
        fill(tmp_path / split, 4, 100 * start)
    assert load(tmp_path).notes == ()
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / name / "a/other-name.png")
    shutil.copy(tmp_path / "train/b/1.png", tmp_path / "test/a/wrong-class.png")
    first, second = load(tmp_path).notes
    assert first.startswith("images of one split that are in another too")
    assert first.endswith(f" 2 (train/a/0.png = {name}/a/other-name.png, train/b/1.png = test/a/wrong-class.png)")
    assert second == "images that are there with two labels: 1 (train/b/1.png = test/a/wrong-class.png)"


def test_copies_that_dividing_parts(tmp_path: Path) -> None:
    """Where this program divides, a copy may fall on both sides; the split stands beside the name."""
    fill(tmp_path)
    for index in range(6):
        shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / f"copy{index}.png")
    notes = load(tmp_path).notes
    assert "images of one split that are in another too" in notes[0]
    assert "(train) = a/" in notes[0]


def test_a_class_without_validation_images(tmp_path: Path) -> None:
    """Said with its name; an own split that lacks it is refused, and all that differs is told."""
    fill(tmp_path)
    draw(tmp_path / "rare" / "0.png", 99)
    assert any(note.startswith("1 of 3 classes have no validation image (rare)") for note in _all_notes(tmp_path))
    own = tmp_path / "own"
    for start, split in enumerate(("train", "validation", "test")):
        fill(own / split, 4, 100 * start)
    shutil.rmtree(own / "test" / "b")
    shutil.move(own / "validation" / "b", own / "validation" / "c")
    draw(own / "test" / "d" / "0.png", 5)
    with pytest.raises(
        InputError, match=r"validation/c: train has no such class\n  validation: the class b of train has"
    ):
        folder.digest(own)


def _all_notes(root: Path) -> tuple[str, ...]:
    return accepted(load(root), "folder").notes


@pytest.mark.parametrize("names", [("Train", "Valid", "Test"), ("training", "testing")])
def test_splits_by_other_names_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Otherwise a network would learn to tell splits apart."""
    for start, name in enumerate(names):
        fill(tmp_path / name, 2, 100 * start)
    with pytest.raises(InputError, match=r"which are splits: name them train, validation, test, all three"):
        folder.digest(tmp_path)


def test_classes_below_other_folders_are_said(tmp_path: Path) -> None:
    """The first level is the class; where the second looks as if it were, that is a note."""
    for start, name in enumerate(("monday", "tuesday")):
        fill(tmp_path / name, 4, 100 * start)
    assert load(tmp_path).notes == ("the images of every class are in a, b below it; the classes are monday, tuesday",)
    draw(tmp_path / "monday" / "0.png", 999)
    assert load(tmp_path).notes == ()


def test_a_class_called_train(tmp_path: Path) -> None:
    """A folder of that name without class folders may be a class; the message says so."""
    for index, name in enumerate(("bus", "car", "train")):
        draw(tmp_path / name / "0.png", index)
    with pytest.raises(
        InputError, match=r"no validation folder: give all.*If train is a class, give its folder another"
    ):
        folder.digest(tmp_path)
