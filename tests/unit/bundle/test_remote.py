"""`secateur verify --device`: what is brought to a device, what is compared, and every way in which that can fail."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline import api
from pipeline.bundle import remote
from pipeline.bundle.on_device.verify import Rejected
from pipeline.bundle.remote import FoundThere
from pipeline.cli import app
from pipeline.core.errors import DeviceError, InputError, OutputsError
from pipeline.measure.devices.record import DeviceRecord
from pipeline.measure.devices.registry import add_device
from tests.optional import require
from tests.unit.bundle.tampering import append, expected, flip, model, rewrite, scaled

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from tests.unit.measure.devices.conftest import Adbd
    from tests.unit.measure.devices.sshd import Sshd

ROWS = ["structure", "checksums", "digest", "device", *["outputs"] * 4, "self-test"]


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_DEVICES", str(tmp_path / "devices.json"))


def verify(bundle: Path, device: str, *options: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["verify", str(bundle), "--device", device, *options])


def told(bundle: Path, device: str, *options: str) -> dict[str, Any]:
    """Return what it says as JSON."""
    found: dict[str, Any] = json.loads(verify(bundle, device, "--json", *options).stdout)
    return found


def python(folder: Path, script: str) -> str:
    """Register a device whose Python is a shell script, and return its name."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    add_device("board", DeviceRecord(url="local", python=str(path)))
    return "board"


def files_in(folder: Path) -> dict[str, int]:
    """Return all files below a folder with their inodes."""
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_output_is_compared(made: Path, runtime: str) -> None:
    """In each runtime: the checks made here, the device with its runtime, a row for every sample, and the sum."""
    found = told(made / "bundle.tar.gz", "local", "--runtime", runtime)
    assert set(found) == set(FoundThere.__dataclass_fields__)
    assert (found["verified"], found["error"], found["device"], found["emulated"]) == (True, "", "local", False)
    assert [check["name"] for check in found["checks"]] == ROWS
    assert (found["runtime"], found["exact"]) == (runtime, False)
    assert 0 <= found["max_abs"] <= found["allowed"]
    assert found["machine"]["python"]
    for row in found["samples"].values():
        assert row["outputs"] == 3
        assert row["same_bits"] <= 3
        assert row["found_class"] == row["expected_class"] in {"plain", "striped", "dotted"}
    text = verify(made / "bundle", "local", "--runtime", runtime).stdout
    assert text.count("outputs have the same bits; class ") + text.count(", largest difference ") >= 4
    assert text.endswith("verified\n")


def test_over_ssh(made: Path, sshd: Sshd) -> None:
    """The bundle lies there under its digest, with nothing else; a second verification sends and leaves nothing."""
    add_device("pi", sshd.record(python=sys.executable))
    sshd.login('#!/bin/sh\necho "Welcome to the board"\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    found = told(made / "bundle", "pi")
    assert found["verified"] is True
    assert found["device"].startswith("ssh://")
    digest = found["digest"].removeprefix("sha256:")
    before = files_in(sshd.files)
    here = {path.relative_to(made / "bundle").as_posix() for path in (made / "bundle").rglob("*") if path.is_file()}
    assert {name.partition("/")[2] for name in before if name.startswith(digest)} == here
    assert {Path(name).name for name in before if not name.startswith(digest)} == {
        "infer.py",
        "self_test.py",
        "verify.py",
    }
    assert verify(made / "bundle.tar.gz", "pi", "--runtime", "openvino").exit_code == 0
    assert files_in(sshd.files) == before


def test_over_adb(made: Path, adbd: Callable[..., Adbd]) -> None:
    """So it does over adb."""
    server = adbd()
    add_device("board", server.record(python=sys.executable))
    done = verify(made / "bundle", "board")
    assert done.exit_code == 0, done.stderr
    assert "device     ok    adb://" in done.stdout
    assert any(name.endswith("/model/model.onnx") for name in files_in(server.files))


def test_a_copy_that_was_damaged_there(made: Path, sshd: Sshd) -> None:
    """What lies on the device is checked each time; the message says what to remove."""
    add_device("pi", sshd.record(python=sys.executable))
    digest = told(made / "bundle", "pi")["digest"].removeprefix("sha256:")
    labels = sshd.files / digest / "labels.txt"
    labels.write_bytes(labels.read_bytes().swapcase())
    done = verify(made / "bundle", "pi")
    assert done.exit_code == 5
    assert "copy of the bundle differs from what was sent: labels.txt: it was changed" in done.stderr
    assert f"remove {sshd.files}/{digest} there" in done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (flip("labels.txt"), "labels.txt: it was changed"),
        (append("new"), "new: it is a file"),
    ],
)
def test_a_bundle_that_is_refused_goes_nowhere(good: Path, change: Callable[[Path], None], says: str) -> None:
    """It is checked here first: a device that does not even exist is not asked."""
    change(good)
    done = verify(good, "ssh://127.0.0.1:1")
    assert done.exit_code == 2
    assert says in done.stderr


def test_wrong_outputs(good: Path) -> None:
    """The sample is named, with the difference and the tolerance; numbers of all samples are there to look at."""
    model(scaled(1.01))(good)
    done = verify(good, "local", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["verified"], len(found["samples"])) == (6, False, 4)
    assert "0 of 3 outputs have the same bits, largest difference" in done.stderr
    assert f"allowed: {found['allowed']:.3g}" in done.stderr
    assert "error: local: x86_64, processor" in done.stderr or "error: local: aarch64" in done.stderr


def test_a_model_that_cannot_be_loaded_there(good: Path) -> None:
    """It is named as in the bundle, with the runtime's words, and no sample is said to have been run."""
    (good / "model" / "model.xml").write_text("broken")
    rewrite(good)
    done = verify(good, "local", "--runtime", "openvino")
    assert done.exit_code == 2
    assert ": model/model.xml: openvino cannot read it (" in done.stderr
    assert "outputs    ok" not in done.stdout


def test_exact_means_every_bit(good: Path) -> None:
    """Where every bit has to be the same, the last one counts."""

    def nudged(content: dict[str, Any]) -> None:
        numbers = content["samples"][0]["outputs"]["onnxruntime"]
        numbers[0] = float(np.nextafter(np.float32(numbers[0]), np.float32(np.inf)))

    expected(lambda content: content["exact"].update(onnxruntime=True))(good)
    found = told(good, "local")
    assert (found["verified"], found["exact"], found["allowed"]) == (True, True, 0.0)
    assert found["checks"][-1]["text"].endswith("all 12 outputs have the same bits, as required")
    expected(nudged)(good)
    done = verify(good, "local")
    assert done.exit_code == 6
    assert "2 of 3 outputs have the same bits, largest difference" in done.stderr
    assert "allowed: 0" in done.stderr


def test_a_zero_of_the_other_sign_is_another_bit() -> None:
    """Numbers that compare equal may differ in a bit, and are told."""
    row = remote._compared([0.0, 1.0], [-0.0, 1.0], 0.0, ["plain", "\x1b[2J"])
    assert (row.same_bits, row.outputs, row.found_class) == (1, 2, "\\x1b[2J")
    exact = remote._Expected({"samples/0.png": [0.0, 1.0]}, 0.0, exact=True, labels=[])
    answer = {
        "outputs": {"samples/0.png": [-0.0, 1.0]},
        "runtime": "onnxruntime",
        "version": "1.31.1",
        "machine": {"architecture": "aarch64", "cpu_model": "0xd08", "python": "3.11.2", "flags": []},
        "code": 0,
    }
    with pytest.raises(Rejected, match="1 of 2 outputs have the same bits"):
        remote._take(answer, {}, exact, FoundThere(device="ssh://pi"))


def test_a_runtime_that_is_missing_there(made: Path, tmp_path: Path) -> None:
    """The line that installs it is told, and where the file that it needs lies there."""
    lacking = tmp_path / "lacking" / "openvino"
    lacking.mkdir(parents=True)
    (lacking / "__init__.py").write_text("raise ImportError('No module named openvino')\n")
    name = python(tmp_path, f'PYTHONPATH={lacking.parent} exec {sys.executable} "$@"')
    assert verify(made / "bundle", name).exit_code == 0
    done = verify(made / "bundle", name, "--runtime", "openvino")
    assert done.exit_code == 5
    assert "local: openvino is not installed" in done.stderr
    assert "pip install -r requirements-openvino.txt; the file is there in " in done.stderr
    assert "Traceback" not in done.stderr
    assert "digest     ok" in done.stdout


@pytest.mark.parametrize(
    "script",
    [
        "echo 'SyntaxError: invalid syntax' >&2; exit 1",
        "echo '{'; echo 'SyntaxError: invalid syntax' >&2; exit 0",
        "printf '{\\n \"verified\": true\\n}\\n'; echo 'SyntaxError: invalid syntax' >&2",
        "kill -9 $$",
    ],
)
def test_a_python_that_fails(made: Path, tmp_path: Path, script: str) -> None:
    """An old Python, one that answers nonsense and one that is killed are told by their last words."""
    done = verify(made / "bundle", python(tmp_path, script))
    assert done.exit_code == 5
    assert "verify.py failed there (exit code" in done.stderr
    assert "it needs Python 3.9 or newer" in done.stderr
    assert ("SyntaxError: invalid syntax" in done.stderr) == ("kill" not in script)


def test_a_device_that_cannot_be_used(made: Path) -> None:
    """Nothing listens there: exit code 5, also from Python; a name that is none is bad input."""
    require("ssh")
    done = verify(made / "bundle", "ssh://127.0.0.1:1")
    assert done.exit_code == 5
    assert done.stderr.count("error: ") == 1
    assert "ssh://127.0.0.1:1: " in done.stderr
    with pytest.raises(DeviceError, match="nothing listens there"):
        api.verify(made / "bundle", device="ssh://127.0.0.1:1")
    with pytest.raises(InputError, match='no device is registered as "nobody"'):
        api.verify(made / "bundle", device="nobody")


def test_from_python(good: Path) -> None:
    """The same as the command, with errors for exit codes."""
    found = api.verify(good, device="local", runtime="openvino")
    assert isinstance(found, FoundThere)
    assert found.samples
    model(scaled(1.01))(good)
    with pytest.raises(OutputsError, match="allowed"):
        api.verify(good, device="local")


def test_a_runtime_without_a_file(made: Path) -> None:
    """A bundle for one runtime alone is refused for the other, before a device is asked."""
    with pytest.raises(Rejected, match="it has no file for torch, allowed: onnxruntime, openvino"):
        remote._expected(made / "bundle", {"main": {"onnxruntime": "a", "openvino": "b"}}, "torch")


def test_nothing_of_the_bundle_is_run_there(good: Path) -> None:
    """Its own programs would answer anything; they are sent as files, and this program's run."""
    marker = good.parent / "marker"
    for name in ("infer.py", "self_test.py", "verify.py"):
        with (good / name).open("a") as stream:
            stream.write(f"\nopen({os.fspath(marker)!r}, 'w')\n")
    expected(lambda _: None)(good)
    found = told(good, "local")
    assert found["verified"] is True
    assert "infer.py is not that of this version of secateur, and is not run" in found["notes"]
    assert not marker.exists()
