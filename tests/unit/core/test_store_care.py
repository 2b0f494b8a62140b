"""Checking, pruning and sizing a store, beside processes that use it."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core import store_care
from pipeline.core.artifact import StageRecord
from pipeline.core.errors import InputError
from pipeline.core.locks import acquire
from pipeline.core.store import Store, link_entry, write_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD, NEW = "0a" * 32, "1b" * 32
DAY_S = 86400.0


def stage(size: int) -> Callable[[Path], None]:
    """Return what makes an entry of a stage with so many bytes in its file."""

    def make(folder: Path) -> None:
        record = StageRecord(kind="prune", revision=1, config={}, parent_digest="", seconds=0)
        write_record(record, folder)
        (folder / "model.onnx").write_bytes(bytes(size))

    return make


def aged(folder: Path) -> None:
    """Make a folder look as if nobody had used it for ten days."""
    then = time.time() - 10 * DAY_S
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store with an old entry, a new one, and old work that was never finished."""
    monkeypatch.setenv("SECATEUR_STORE", str(tmp_path / "store"))
    found = Store(tmp_path / "store")
    found.obtain(OLD, stage(1000))
    found.obtain(NEW, lambda folder: (folder / "judgement.json").write_text("{}") and None)
    unfinished = found.root / "work" / ("2c" * 32)
    unfinished.mkdir(parents=True)
    (unfinished / "training.pt").write_bytes(bytes(500))
    found.release()
    aged(found.folder(OLD))
    aged(unfinished)
    return found


def ignore(_done: int, _of: int) -> None:
    """Take no notice of progress."""


def test_check_names_what_is_damaged(store: Store) -> None:
    """With what is wrong; what another process makes right now is not called damaged, and nothing is changed."""
    assert {each.state for each in store_care.check_entries(store, ignore)} == {"whole"}
    (store.folder(NEW) / "entry.json").unlink()
    (store.folder(OLD) / "model.onnx").unlink()
    found = {each.key: each for each in store_care.check_entries(store, ignore)}
    assert (found[OLD].kind, found[OLD].state, found[OLD].problem) == ("prune", "damaged", "model.onnx is missing")
    assert (found[NEW].kind, found[NEW].state) == ("evaluation", "unlisted")
    lock = acquire(store.lock_file(OLD))
    assert {each.key: each.state for each in store_care.check_entries(store, ignore)}[OLD] == "in the making"
    lock.release()  # type: ignore[union-attr]


def test_prune_removes_what_was_not_used(store: Store) -> None:
    """By the last use, not by when it was made; the locks of what is gone go too."""
    dry = store_care.prune_entries(store, DAY_S, dry_run=True)
    assert store.has(OLD)
    found = store_care.prune_entries(store, DAY_S)
    assert found == dry
    assert (found.entries, found.unfinished, found.kept, found.in_use) == ({"prune": 1}, 1, 1, 0)
    assert found.bytes > 1500
    assert not store.folder(OLD).exists()
    assert store.has(NEW)
    assert list((store.root / "work").iterdir()) == []
    aged(store.root / "locks")
    store_care.prune_entries(store, DAY_S)
    assert not list((store.root / "locks").glob(f"{OLD}*"))


def test_what_is_used_again_stays(store: Store) -> None:
    """A run that takes an entry from the store makes it young, and holds it as long as it runs."""
    user = Store(store.root)
    assert not user.obtain(OLD, stage(1))
    assert store_care.prune_entries(store, DAY_S).kept == 2
    aged(store.folder(OLD))
    found = store_care.prune_entries(store, DAY_S)
    assert (found.entries, found.in_use) == ({}, 1)
    assert store.has(OLD)
    user.release()
    assert store_care.prune_entries(store, DAY_S).entries == {"prune": 1}


def test_work_in_progress_stays(store: Store) -> None:
    """However long its files have not moved: its process has the lock."""
    lock = acquire(store.lock_file("2c" * 32))
    assert store_care.prune_entries(store, DAY_S).unfinished == 0
    lock.release()  # type: ignore[union-attr]
    assert store_care.prune_entries(store, DAY_S).unfinished == 1


def test_size_counts_what_is_shared_once(store: Store, tmp_path: Path) -> None:
    """By kind, and what run folders show too."""
    before = store_care.count_entries(store)
    assert (before.entries, before.unfinished_bytes, before.shared_bytes) == ({"prune": 1, "evaluation": 1}, 500, 0)
    assert before.bytes == sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    link_entry(store.folder(OLD), tmp_path / "run")
    after = store_care.count_entries(store)
    assert after.bytes == before.bytes
    assert after.shared_bytes > 1000
    assert store_care.prune_entries(store, DAY_S).bytes < 1000


def run(*arguments: str) -> tuple[int, str]:
    """Run the command; return its exit code and what it printed on stdout."""
    done = CliRunner().invoke(app, ["store", *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_the_command_checks(store: Store) -> None:
    """Exit code 1 and a table where something is damaged; JSON has every entry."""
    code, text = run("check")
    assert (code, text.strip()) == (0, "2 entries, none damaged")
    (store.folder(OLD) / "model.onnx").write_bytes(b"")
    code, text = run("check")
    assert code == 1
    assert "has 0 bytes in place of 1000" in " ".join(text.split())
    assert "1 damaged; runs that need them will make them again" in text
    code, text = run("check", "--json")
    assert [each["state"] for each in json.loads(text)] == ["damaged", "whole"]


def test_the_command_prunes(store: Store) -> None:
    """With what it would do first; a time needs its unit."""
    code, text = run("prune", "--older", "5d", "--dry-run")
    assert code == 0
    assert "1 entry (1 prune) and 1 unfinished would be removed" in " ".join(text.split())
    assert json.loads(run("prune", "--older", "5d", "--json")[1])["entries"] == {"prune": 1}
    assert not store.has(OLD)
    with pytest.raises(InputError, match=r'--older: found "5", allowed: a time with its unit'):
        run("prune", "--older", "5")
    assert run("prune")[0] == 2
    done = CliRunner().invoke(app, ["run", "recipe.yaml", "--wait", "a while"])
    assert isinstance(done.exception, InputError)
    assert '--wait: found "a while", allowed: a time with its unit' in str(done.exception)


def test_the_command_tells_the_size(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind; a store that was never used is empty, one that is a file is refused."""
    text = run("size")[1]
    assert "prune" in text
    assert "unfinished" in text
    assert json.loads(run("size", "--json")[1])["bytes"] == store_care.count_entries(store).bytes
    monkeypatch.setenv("SECATEUR_STORE", str(tmp_path / "none"))
    assert json.loads(run("size", "--json")[1])["bytes"] == 0
    assert run("check")[0] == 0
    (tmp_path / "file").touch()
    monkeypatch.setenv("SECATEUR_STORE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="is a file, expected a folder"):
        run("size")


@pytest.mark.parametrize("command", ["check", "prune", "size"])
def test_help_teaches(command: str) -> None:
    """What is done, what stays, and an example."""
    code, text = run(command, "--help")
    assert code == 0
    assert f"secateur store {command}" in text


def test_links_in_a_store_are_removed_and_not_followed(store: Store, tmp_path: Path) -> None:
    """Pruning frees no bytes by it, and what a killed process was removing may be a link too."""
    elsewhere = store.folder(OLD).rename(tmp_path / "elsewhere")
    store.folder(OLD).symlink_to(elsewhere)
    left = store.folder(OLD).with_name(f".{OLD}.removed")
    left.symlink_to(elsewhere)
    (store.root / "removed").mkdir(exist_ok=True)
    (store.root / "removed" / "left").symlink_to(elsewhere)
    removed = store_care.prune_entries(store, DAY_S)
    assert (removed.entries, removed.bytes) == ({"prune": 1}, 500)
    assert not [path for path in store.root.rglob("*") if path.is_symlink()]
    assert (elsewhere / "model.onnx").stat().st_size == 1000
