"""The commands about devices, on this machine and on devices that are not there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.core.errors import DeviceError, InputError
from pipeline.measure import probe as visit_module

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's devices out of it."""
    monkeypatch.setenv("SECATEUR_DEVICES", str(tmp_path / "devices.json"))


def run(*arguments: str) -> Result:
    """Run `secateur device` with these arguments."""
    return CliRunner().invoke(app, ["device", *arguments])


def test_devices_are_added_listed_and_removed() -> None:
    """With their options, as text and as JSON."""
    assert "add one: secateur device add" in run("list").stdout
    added = run("add", "pi", "ssh://pi@raspberrypi:2222", "--python", "/opt/python", "--json")
    assert json.loads(added.stdout)["python"] == "/opt/python"
    run("add", "arm", "qemu://cortex-a72", "--library", "numpy", "--library", "onnxruntime")
    assert run("list").stdout.splitlines() == [
        "arm  qemu://cortex-a72  libraries=numpy,onnxruntime",
        "pi  ssh://pi@raspberrypi:2222  python=/opt/python",
    ]
    assert json.loads(run("list", "--json").stdout)["pi"]["url"] == "ssh://pi@raspberrypi:2222"
    assert run("remove", "arm").stdout == "arm removed\n"
    assert json.loads(run("remove", "pi", "--json").stdout)["name"] == "pi"
    assert json.loads(run("list", "--json").stdout) == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "pi", "telnet://pi"), "allowed: local, ssh://"),
        (("add", "pi", "ssh://pi", "--root", "/"), "found root for a device of kind ssh"),
        (("add", "local", "ssh://pi"), 'found the name "local"'),
        (("remove", "pi"), 'no device is registered as "pi"'),
        (("check", "pi"), 'no device is registered as "pi"'),
    ],
)
def test_bad_input_is_said(arguments: tuple[str, ...], told: str) -> None:
    """Exit code 2, from the program's `main`."""
    error = run(*arguments).exception
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    assert told in str(error)


def test_check_says_what_is_there() -> None:
    """This machine, under a name: Python, packages with versions, processor, round trip."""
    run("add", "here", "local")
    result = run("check", "here")
    assert result.exit_code == 0
    for told in ("here: local answers in ", "python    ", "onnxruntime 1.", "counts    times"):
        assert told in result.stdout
    found = json.loads(run("check", "here", "--json").stdout)
    assert found["ready"]
    assert found["fingerprint"]["architecture"]
    assert 0 < found["round_trip_ms"] < 1000


class Hello:
    """A connection to a device of the given packages."""

    packages: dict[str, str | None]

    def __enter__(self) -> Hello:  # noqa: PYI034 - a stand-in
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def request(self, op: str, **_: object) -> None:
        """Answer what does nothing."""
        assert op == "sleep"


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ({"numpy": None, "onnxruntime": None, "openvino": None}, 5, "missing   numpy and onnxruntime and openvino"),
        ({"numpy": "2", "onnxruntime": None, "openvino": None}, 5, "missing   onnxruntime and openvino"),
        ({"numpy": "2", "onnxruntime": "1.22", "openvino": None}, 0, "optional  openvino"),
    ],
)
def test_check_says_what_is_missing(
    packages: dict[str, str | None], code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line that installs it there; with numpy and one runtime a device can be used."""
    machine = dict.fromkeys(("cpu_model", "architecture", "logical_cores", "system", "kernel"), "x") | {"isa": []}
    hello = {"python": "3.11.2", "executable": "/usr/bin/python3", "packages": packages, "fingerprint": machine}
    monkeypatch.setattr(visit_module, "connect", lambda _: (Hello(), hello))
    result = run("check", "qemu://cortex-a72")
    assert result.exit_code == code
    assert line in result.stdout
    assert "run there: /usr/bin/python3 -m pip install " in result.stdout
    assert "counts    instructions only" in result.stdout


def test_a_device_that_does_not_answer_is_exit_code_5() -> None:
    """Nothing listens on port 1 of this machine."""
    error = run("check", "ssh://nobody@127.0.0.1:1").exception
    assert isinstance(error, DeviceError)
    assert error.exit_code == 5
