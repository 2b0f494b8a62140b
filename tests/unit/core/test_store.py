"""The store shows what is finished and whole, makes again what is not, and is shared by processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pipeline.core import entry
from pipeline.core.artifact import Artifact, StageRecord, payload_digest, size_bytes
from pipeline.core.errors import InputError, ResourceError
from pipeline.core.store import Store, default_wait_s, link_entry, read_artifact, write_artifact, write_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "ab" * 32


def fill(folder: Path) -> None:
    """Write an ONNX artifact of a few bytes."""
    (folder / "model.onnx").write_bytes(b"graph")
    digest = payload_digest("onnx", folder)
    write_artifact(Artifact(form="onnx", folder=folder, digest=digest, inputs=(), outputs=()), folder)


def record(kind: str, **changed: object) -> StageRecord:
    """Return the record of a stage."""
    return StageRecord(kind=kind, revision=1, config={}, parent_digest="", seconds=0, changed=changed)


def never(_folder: Path) -> None:
    """Stand for work that must not be done."""
    pytest.fail("made again")


def test_entry_appears_when_finished(tmp_path: Path) -> None:
    """An entry is there once it is made, with its files in the final folder, and is made once."""
    store = Store(tmp_path)

    def make(folder: Path) -> None:
        fill(folder)
        assert not store.has(KEY)

    assert store.obtain(KEY, make)
    artifact = store.read(KEY)
    assert artifact.file.read_bytes() == b"graph"
    assert size_bytes(artifact) == 5
    assert not store.obtain(KEY, never)
    assert not (tmp_path / "work" / KEY).exists()


def test_killed_stage_finds_its_folder_again(tmp_path: Path) -> None:
    """An error leaves the entry unfinished and the working folder as it was."""
    store = Store(tmp_path)

    def killed(folder: Path) -> None:
        (folder / "half").write_text("done so far")
        raise KeyboardInterrupt

    def go_on(folder: Path) -> None:
        assert (folder / "half").read_text() == "done so far"

    with pytest.raises(KeyboardInterrupt):
        store.obtain(KEY, killed)
    assert not store.has(KEY)
    store.obtain(KEY, go_on)
    assert store.has(KEY)


def test_folders_and_temporaries_are_no_part_of_an_entry(tmp_path: Path) -> None:
    """What a stage needs on its way goes once all files are listed; killed in between, it is not made again."""
    store = Store(tmp_path)

    def make(folder: Path) -> None:
        fill(folder)
        (folder / "phases" / "000").mkdir(parents=True)
        (folder / "training.part").write_text("half")

    work = tmp_path / "work" / KEY
    work.mkdir(parents=True)
    make(work)
    entry.seal(work)  # and here it is killed
    (work / "phases" / "000").rmdir()
    assert store.obtain(KEY, never)
    assert sorted(path.name for path in store.folder(KEY).iterdir()) == ["artifact.json", "entry.json", "model.onnx"]


DAMAGE = {
    "a byte": lambda folder: (folder / "model.onnx").write_bytes(b"grapH"),
    "a byte more": lambda folder: (folder / "model.onnx").write_bytes(b"graphs"),
    "empty": lambda folder: (folder / "model.onnx").write_bytes(b""),
    "no payload": lambda folder: (folder / "model.onnx").unlink(),
    "a folder": lambda folder: ((folder / "model.onnx").unlink(), (folder / "model.onnx").mkdir()),
    "no artifact": lambda folder: (folder / "artifact.json").unlink(),
    "empty artifact": lambda folder: (folder / "artifact.json").write_text(""),
    "other artifact": lambda folder: (folder / "artifact.json").write_text("{}"),
    "no record": lambda folder: (folder / "record.json").unlink(),
    "changed record": lambda folder: (folder / "record.json").write_text("{}"),
    "empty listing": lambda folder: (folder / "entry.json").write_text(""),
    "no files listed": lambda folder: (folder / "entry.json").write_text('{"format": 1, "files": {}}'),
    "a way out": lambda folder: (folder / "entry.json").write_text(
        json.dumps({"files": {"../x": {"bytes": 0, "sha256": "0" * 64}}})
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_made_again_with_a_word(tmp_path: Path, kind: str) -> None:
    """Any file missing and any byte changed: not in the store, and whole after the next run that needs it."""

    def make(folder: Path) -> None:
        fill(folder)
        write_record(record("export"), folder)

    notes: list[str] = []
    store = Store(tmp_path)
    store.obtain(KEY, make)
    before = {path.name: path.read_bytes() for path in store.folder(KEY).iterdir()}
    DAMAGE[kind](store.folder(KEY))
    assert not store.has(KEY)
    assert store.obtain(KEY, make, notes.append)
    assert "is made again" in notes[0]
    assert {path.name: path.read_bytes() for path in store.folder(KEY).iterdir()} == before


@pytest.mark.parametrize("name", ["model.onnx", "artifact.json", "record.json"])
def test_every_byte_counts(tmp_path: Path, name: str) -> None:
    """A flip of any one byte of any file is seen, also where size and time stay as they were."""
    store = Store(tmp_path)
    store.obtain(KEY, lambda folder: (fill(folder), write_record(record("export"), folder)))  # type: ignore[arg-type, func-returns-value]
    file = store.folder(KEY) / name
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert not Store(tmp_path).has(KEY), place
    file.write_bytes(content)
    assert Store(tmp_path).has(KEY)


OLD = {
    "an artifact": (fill, True),
    "an artifact of other bytes": (lambda folder: (fill(folder), (folder / "model.onnx").write_bytes(b"x")), False),
    "a payload alone": (lambda folder: (folder / "model.onnx").write_bytes(b"x"), False),
    "a stage that lost its artifact": (lambda folder: write_record(record("finetune"), folder), False),
    "a stage that looks": (lambda folder: write_record(record("measure"), folder), True),
    "a stage that was skipped": (
        lambda folder: write_record(record("finetune", gain={"decision": "skipped"}), folder),
        True,
    ),
    "a stage that was kept": (
        lambda folder: write_record(record("finetune", gain={"decision": "kept"}), folder),
        False,
    ),
    "an evaluation": (lambda folder: (folder / "judgement.json").write_text("{}"), True),
    "half an evaluation": (lambda folder: (folder / "judgement.json").write_text('{"a": '), False),
    "nothing": (lambda _: None, False),
}


@pytest.mark.parametrize("case", OLD)
def test_entries_without_a_listing_are_checked_once_and_kept(tmp_path: Path, case: str) -> None:
    """Of earlier versions: whole ones get a listing when they are used, others are made again."""
    write, whole = OLD[case]
    store = Store(tmp_path)
    folder = store.folder(KEY)
    folder.mkdir(parents=True)
    write(folder)
    assert store.has(KEY) == whole
    assert store.obtain(KEY, never if whole else fill) != whole
    assert entry.is_listed(folder)
    assert Store(tmp_path).has(KEY)


def test_what_does_not_fit_is_made_again(tmp_path: Path) -> None:
    """The caller says why a whole entry is not what it needs."""
    store, notes = Store(tmp_path), list[str]()
    store.obtain(KEY, fill)
    assert store.obtain(KEY, fill, notes.append, unfit=lambda folder: "" if notes else f"{folder.name} is old")
    assert "is old" in notes[0]


@pytest.mark.parametrize("there", [True, False])
def test_an_entry_that_is_a_damaged_link_is_made_again(tmp_path: Path, *, there: bool) -> None:
    """The link goes, also one to nowhere; what it leads to stays."""
    store, elsewhere, notes = Store(tmp_path / "store"), tmp_path / "elsewhere", []
    if there:
        elsewhere.mkdir()
        (elsewhere / "mine").write_text("kept")
    store.folder(KEY).parent.mkdir(parents=True)
    store.folder(KEY).symlink_to(elsewhere)
    assert store.obtain(KEY, fill, notes.append)
    assert "is damaged or stale" in notes[0]
    assert store.read(KEY).file.read_bytes() == b"graph"
    assert not store.folder(KEY).is_symlink()
    assert [path.name for path in tmp_path.rglob("mine")] == ["mine"] * there
    assert list((store.root / "removed").iterdir()) == []


def test_links_do_not_show_the_listing(tmp_path: Path) -> None:
    """A run folder has the files of the stage, and a changed link is damage to the entry."""
    store = Store(tmp_path / "store")
    store.obtain(KEY, fill)
    link_entry(store.folder(KEY), tmp_path / "shown")
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == ["artifact.json", "model.onnx"]
    (tmp_path / "shown" / "model.onnx").write_bytes(b"other")
    with pytest.raises(ResourceError, match=r"damaged.*Remove that folder"):
        read_artifact(tmp_path / "shown")
    assert not store.has(KEY)
    (tmp_path / "shown" / "artifact.json").write_text("{")
    with pytest.raises(ResourceError, match="holds no whole artifact"):
        read_artifact(tmp_path / "shown")


def test_a_store_that_cannot_be_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is there is taken, without a lock."""
    Store(tmp_path).obtain(KEY, fill)
    shutil.rmtree(tmp_path / "locks")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not Store(tmp_path).obtain(KEY, never)
    assert not (tmp_path / "locks").exists()


OPERATIONS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "open", "write")


@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_whatever_operation_is_the_last_the_next_run_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException | type[BaseException]
) -> None:
    """Ended at every single call to the system, while a damaged entry is made again: absent or whole, never wrong."""
    store = Store(tmp_path)
    for number in range(1000):
        store.obtain(KEY, make_phases)
        (store.folder(KEY) / "model.onnx").write_bytes(b"")
        clock = Countdown(number, end)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt, OSError, ResourceError):
            for name in OPERATIONS:
                patch.setattr(os, name, clock.watched(getattr(os, name)))
            Store(tmp_path).obtain(KEY, make_phases)
        assert not store.has(KEY) or store.read(KEY)
        store.obtain(KEY, make_phases)
        assert store.has(KEY)
        names = sorted(path.name for path in store.folder(KEY).iterdir() if not path.name.startswith("."))
        assert names == ["artifact.json", "entry.json", "model.onnx"], number
        if not clock.over:
            break
    assert number > 15


class Countdown:
    """Ends with an error at one of many calls."""

    def __init__(self, left: int, end: BaseException | type[BaseException]) -> None:
        self.left = left
        self.end = end
        self.over = False

    def watched(self, call: Callable[..., object]) -> Callable[..., object]:
        """Return the call, counted."""

        def counted(*arguments: object, **named: object) -> object:
            self.left -= 1
            if self.left < 0 and not self.over:
                self.over = True
                raise self.end
            return call(*arguments, **named)

        return counted


def make_phases(folder: Path) -> None:
    """Make an entry with something to clean up."""
    (folder / "phases").mkdir(exist_ok=True)
    (folder / "phases" / "half").write_text("half")
    fill(folder)


MAKE = """
import sys, time
from pathlib import Path
from pipeline.core.store import Store
root, seconds, wait = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])

def make(folder):
    with (root / "made").open("a") as stream:
        stream.write("once\\n")
    (folder / "started").write_text("")
    time.sleep(seconds)
    (folder / "model.onnx").write_text("graph")

made = Store(root, wait).obtain("ab" * 32, make, lambda text: print(text, flush=True), what="prune")
print("made" if made else "taken", flush=True)
"""


def start(root: Path, seconds: float, wait: float = 60) -> subprocess.Popen[str]:
    """Start a process that makes the entry, for so many seconds, or waits for it."""
    command = [sys.executable, "-c", MAKE, str(root), str(seconds), str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(path: Path) -> None:
    """Wait until a file is there."""
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.05)
    pytest.fail(f"no {path}")


@pytest.mark.parametrize("others", [1, 9])
def test_others_wait_and_take_what_the_first_makes(tmp_path: Path, others: int) -> None:
    """Two and ten processes that need one entry: it is made once, and all have it."""
    processes = [start(tmp_path, 1.0) for _ in range(1 + others)]
    told = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * (1 + others), told
    assert sorted(text.splitlines()[-1] for text in told) == ["made", *["taken"] * others]
    assert (tmp_path / "made").read_text() == "once\n"


def test_a_waiting_process_says_for_whom_and_goes_on_when_that_was_killed(tmp_path: Path) -> None:
    """The lock of a killed process ends with it; the next one finds its working folder, and says so."""
    first = start(tmp_path, 600)
    until(tmp_path / "work" / KEY / "started")
    second = start(tmp_path, 0)
    assert second.stdout is not None
    waiting = second.stdout.readline()
    assert re.fullmatch(rf"waiting for process {first.pid} \(since [-\d]+ [:\d]+\), which is making prune\n", waiting)
    first.kill()
    first.communicate()
    rest, _ = second.communicate(timeout=60)
    assert f"process {first.pid} (since" in rest
    assert "waiting" not in rest
    assert "ended without finishing prune" in rest
    assert rest.splitlines()[-1] == "made"


def test_waiting_has_a_limit(tmp_path: Path) -> None:
    """After it the error names the holder and what to do; nothing of the holder is touched."""
    first = start(tmp_path, 600)
    until(tmp_path / "work" / KEY / "started")
    with pytest.raises(ResourceError, match=rf"waited 0s for process {first.pid} .*--wait \(or SECATEUR_WAIT\)"):
        Store(tmp_path, 0).obtain(KEY, never)
    assert (tmp_path / "work" / KEY / "started").exists()
    first.kill()
    first.communicate()


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a time with its unit; a day without the variable."""
    monkeypatch.setenv("SECATEUR_WAIT", "2h")
    assert default_wait_s() == 7200
    monkeypatch.delenv("SECATEUR_WAIT")
    assert default_wait_s() == 86400
    monkeypatch.setenv("SECATEUR_WAIT", "long")
    with pytest.raises(InputError, match=r'SECATEUR_WAIT: found "long", allowed: a time'):
        default_wait_s()
