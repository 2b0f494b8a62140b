"""Signing with minisign: whose it is, that it is of this bundle, and that it is the same again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.bundle.archive import write_archive
from pipeline.bundle.place import check_key, sign, write_bundle
from pipeline.cli import app
from pipeline.core.errors import InputError
from tests.optional import found, require
from tests.unit.bundle.small_content import content
from tests.unit.bundle.tampering import flip, rewrite, sha256

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two pairs of keys without passwords: ours and another's."""
    require("minisign")
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "another"):
        files = ["-p", str(folder / f"{name}.pub"), "-s", str(folder / f"{name}.key")]
        subprocess.run([found("minisign") or "", "-G", "-W", *files], check=True, capture_output=True)
    return folder


@pytest.fixture
def signed(good: Path, keys: Path) -> Path:
    """Return a signed bundle."""
    sign(good, keys / "ours.key")
    return good


def verify(bundle: Path, *options: str) -> tuple[int, str]:
    """Return exit code and all text of `secateur verify`."""
    done = CliRunner().invoke(app, ["verify", str(bundle), *options])
    return done.exit_code, done.output


def test_a_signature_by_the_key(signed: Path, keys: Path, tmp_path: Path) -> None:
    """It holds by the file of the key or its text, in the folder, in an archive, and for the bundle's own code."""
    text = (keys / "ours.pub").read_text().splitlines()[1]
    write_archive(signed, tmp_path / "signed.tar.gz")
    for bundle in (signed, tmp_path / "signed.tar.gz"):
        for key in (str(keys / "ours.pub"), text):
            code, told = verify(bundle, "--public-key", key)
            assert (code, "signature  ok" in told) == (0, True), told
    command = [sys.executable, "verify.py", "--public-key", str(keys / "ours.pub")]
    alone = subprocess.run(command, cwd=signed, check=False, capture_output=True, text=True)
    assert (alone.returncode, "edge bundle by secateur" in alone.stdout) == (0, True)
    assert "the signature was not checked" in verify(signed)[1]


def test_the_same_bytes_again(signed: Path, keys: Path) -> None:
    """The signature depends on the key and the bundle, not on the clock."""
    before = sha256(signed / "SHA256SUMS.minisig")
    sign(signed, keys / "ours.key")
    assert sha256(signed / "SHA256SUMS.minisig") == before


def test_another_key(signed: Path, keys: Path) -> None:
    """A signature by someone else is refused."""
    code, told = verify(signed, "--public-key", str(keys / "another.pub"))
    assert (code, "SHA256SUMS.minisig" in told) == (2, True)


def test_of_another_bundle(signed: Path, keys: Path) -> None:
    """A bundle that was rewritten with care keeps a signature that is not of it."""
    flip("labels.txt")(signed)
    rewrite(signed)
    assert verify(signed)[0] == 0
    code, told = verify(signed, "--public-key", str(keys / "ours.pub"))
    assert (code, "SHA256SUMS.minisig" in told) == (2, True)


@pytest.mark.parametrize("text", [b"", b"nonsense\n", b"x" * 5000, b"\xff\xfe"])
def test_no_signature(signed: Path, keys: Path, text: bytes) -> None:
    """What stands in its file is refused by name, and so is a changed comment."""
    (signed / "SHA256SUMS.minisig").write_bytes(text)
    code, told = verify(signed, "--public-key", str(keys / "ours.pub"))
    assert (code, "SHA256SUMS.minisig" in told) == (2, True)


def test_a_changed_comment(signed: Path, keys: Path) -> None:
    """The trusted comment is signed too."""
    path = signed / "SHA256SUMS.minisig"
    path.write_text(path.read_text().replace("edge bundle by secateur", "edge bundle by someone"))
    assert verify(signed, "--public-key", str(keys / "ours.pub"))[0] == 2


def test_a_missing_signature(signed: Path, keys: Path) -> None:
    """Who gives a key wants a signature."""
    (signed / "SHA256SUMS.minisig").unlink()
    code, told = verify(signed, "--public-key", str(keys / "ours.pub"))
    assert (code, "SHA256SUMS.minisig: it is missing" in told) == (2, True)


def test_a_key_that_is_none(good: Path) -> None:
    """Neither a file nor a key: said without starting anything."""
    (good / "SHA256SUMS.minisig").write_text("a signature\n")
    code, told = verify(good, "--public-key", "nowhere.pub")
    assert (code, "nowhere.pub" in told) == (2, True)


def test_without_minisign(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither signed nor taken for signed: the line that installs it is told."""
    (good / "SHA256SUMS.minisig").write_text("a signature\n")
    (tmp_path / "a.key").write_text("a key\n")
    monkeypatch.setattr(shutil, "which", lambda name: None)  # noqa: ARG005
    code, told = verify(good, "--public-key", str(tmp_path / "a.key"))
    assert (code, "apt-get install minisign" in told) == (2, True)
    with pytest.raises(InputError, match="apt-get install minisign"):
        check_key(tmp_path / "a.key")


def test_written_signed(keys: Path, tmp_path: Path) -> None:
    """A bundle is signed when it is written, in every place; a key that is none leaves nothing behind."""
    given = content(tmp_path / "run", runtimes=("onnxruntime",))
    places = (tmp_path / "bundle", tmp_path / "bundle.tar.gz")
    with pytest.raises(InputError, match=r"no\.key"):
        write_bundle(given, places, secret_key=tmp_path / "no.key")
    with pytest.raises(InputError, match="minisign did not sign"):
        write_bundle(given, places, secret_key=keys / "ours.pub")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    write_bundle(given, places, secret_key=keys / "ours.key")
    for place in places:
        assert verify(place, "--public-key", str(keys / "ours.pub"))[0] == 0
