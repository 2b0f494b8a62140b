"""Nothing of a bundle can be changed without being found: tables of changes, each refused with the file's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from tests.unit.bundle.packing import ARCHIVES
from tests.unit.bundle.tampering import FOLDERS, flip, rewrite

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from tests.unit.bundle.packing import Packing
    from tests.unit.bundle.tampering import Tampering


def verify(bundle: Path, *options: str) -> Result:
    """Start `secateur verify`."""
    return CliRunner().invoke(app, ["verify", str(bundle), *options])


def verify_on_device(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Start the bundle's own verify.py, in its folder."""
    command = [sys.executable, "verify.py", *options]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(command, cwd=bundle, env=clean, check=False, capture_output=True, text=True, timeout=120)


def test_there_are_many_ways() -> None:
    """The tables hold what they should, each change under a name of its own."""
    names = [each.name for each in (*FOLDERS, *ARCHIVES)]
    assert len(FOLDERS) >= 80
    assert len(ARCHIVES) >= 40
    assert len(set(names)) == len(names)


def test_a_good_bundle_passes(made: Path) -> None:
    """As a folder, as an archive, and by its own code."""
    for bundle in (made / "bundle", made / "bundle.tar.gz"):
        done = verify(bundle)
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == "verified"
    alone = verify_on_device(made / "bundle")
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout.splitlines()[-1] == "verified"
    assert not list((made / "bundle").rglob("__pycache__"))


@pytest.mark.parametrize("each", FOLDERS, ids=lambda each: each.name)
def test_changed_folder(good: Path, each: Tampering) -> None:
    """Both ways refuse it: with the exit code, the name of the file, and no traceback."""
    each.change(good)
    done = verify(good, *each.options)
    assert done.exit_code == each.code, done.output
    assert isinstance(done.exception, SystemExit)
    assert each.says in done.stderr
    assert done.stdout.splitlines()[-1] == "refused"
    alone = verify_on_device(good, *each.options)
    assert alone.returncode == each.code, alone.stderr
    assert alone.stderr.startswith("error: ")
    assert each.says in alone.stderr
    assert "Traceback" not in alone.stderr


@pytest.mark.parametrize("each", ARCHIVES, ids=lambda each: each.name)
def test_changed_archive(made: Path, tmp_path: Path, each: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is refused, and nothing is written outside the folder that it was to be unpacked into."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    archive = tmp_path / "bundle.tar.gz"
    archive.write_bytes(each.pack(made / "bundle"))
    before = set(tmp_path.rglob("*"))
    done = verify(archive)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    assert each.says in done.stderr
    assert set(tmp_path.rglob("*")) == before


def test_only_the_digest_finds_what_was_rewritten_with_care(made: Path, good: Path) -> None:
    """Where code, labels and all checksums were rewritten, the samples are still right; the digest is another."""
    known = verify(made / "bundle").stdout.split("digest")[1].split()[1]
    flip("labels.txt")(good)
    rewrite(good)
    assert verify(good).exit_code == 0
    assert verify(good, "--digest", known).exit_code == 2
    assert verify(made / "bundle", "--digest", known).exit_code == 0
    assert verify(made / "bundle", "--digest", known.removeprefix("sha256:").upper()).exit_code == 0


def test_code_of_a_bundle_is_never_run_by_the_program(good: Path) -> None:
    """The program has its own; it says that the bundle's is another."""
    for name in ("infer.py", "self_test.py", "verify.py"):
        (good / name).write_text("raise SystemExit('the code of the bundle was run')\n")
    rewrite(good)
    done = verify(good)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("is not that of this version") == 3


@pytest.mark.parametrize("name", ["infer.py", "self_test.py"])
@pytest.mark.parametrize("content", [b"this is no program\n", b"\0", b"\xff\n"])
def test_code_that_is_none(good: Path, name: str, content: bytes) -> None:
    """A bundle that was rewritten around it is refused by its own verify.py, without a traceback."""
    (good / name).write_bytes(content)
    rewrite(good)
    done = verify_on_device(good)
    assert (done.returncode, done.stderr.startswith(f"error: {name}: ")) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_code_of_a_bundle_is_run_only_once_all_is_right(good: Path) -> None:
    """Neither a changed infer.py nor a file with the name of a library is imported before it is found."""
    for name in ("infer.py", "self_test.py", "numpy.py", "json.py"):
        shutil.copy(good / name, good / f"{name}.kept") if (good / name).exists() else None
        (good / name).write_text("open('ran', 'w').close()\n")
    done = verify_on_device(good)
    assert done.returncode == 2
    assert not (good / "ran").exists()


@pytest.mark.parametrize("path", ["nothing", "file.txt", "empty"])
def test_no_bundle(tmp_path: Path, path: str) -> None:
    """What is no bundle is refused by name."""
    (tmp_path / "file.txt").write_text("hello\n")
    (tmp_path / "empty").mkdir()
    done = verify(tmp_path / path)
    assert done.exit_code == 2
    assert path in done.stderr
