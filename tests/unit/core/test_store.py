"""The store never shows what is not finished, and notices what was changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.core.artifact import Artifact, payload_digest, size_bytes
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.store import Store, write_artifact

if TYPE_CHECKING:
    from pathlib import Path

KEY = "ab" * 32


def fill(folder: Path) -> None:
    """Write an ONNX artifact of a few bytes."""
    (folder / "model.onnx").write_bytes(b"graph")
    digest = payload_digest("onnx", folder)
    write_artifact(Artifact(form="onnx", folder=folder, digest=digest, inputs=(), outputs=()), folder)


def test_entry_appears_when_finished(tmp_path: Path) -> None:
    """An entry is there after the block, with its files in the final folder."""
    store = Store(tmp_path)
    with store.making(KEY) as folder:
        fill(folder)
        assert not store.has(KEY)
    artifact = store.read(KEY)
    assert artifact.file.read_bytes() == b"graph"
    assert size_bytes(artifact) == 5


def test_killed_stage_finds_its_folder_again(tmp_path: Path) -> None:
    """An error leaves the entry unfinished and the working folder as it was."""
    store = Store(tmp_path)

    def killed() -> None:
        with store.making(KEY) as folder:
            (folder / "half").write_text("done so far")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert not store.has(KEY)
    with store.making(KEY) as folder:
        assert (folder / "half").read_text() == "done so far"


def test_same_stage_twice_at_once_is_refused(tmp_path: Path) -> None:
    """While one run makes an entry, another is told so instead of mixing files."""
    store = Store(tmp_path)
    with store.making(KEY), pytest.raises(InputError, match="another run is making the same stage"), store.making(KEY):
        pass


def test_damage_is_noticed(tmp_path: Path) -> None:
    """A changed file is refused with the folder to remove."""
    store = Store(tmp_path)
    with store.making(KEY) as folder:
        fill(folder)
    (store.folder(KEY) / "model.onnx").write_bytes(b"other")
    with pytest.raises(ResourceError, match=r"damaged.*Remove that folder"):
        store.read(KEY)
