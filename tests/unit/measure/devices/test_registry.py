"""The file of registered devices: names, clear errors, and never half a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.measure.devices import open_device
from pipeline.measure.devices.record import DeviceRecord
from pipeline.measure.devices.registry import add_device, find_device, list_devices, registry_file, remove_device

PI = DeviceRecord(url="ssh://pi@board:2222", python="~/venv/bin/python", identity=Path("/keys/pi"))
A72 = DeviceRecord(url="qemu://cortex-a72")


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the file will be; its folder does not exist yet."""
    path = tmp_path / "settings" / "devices.json"
    monkeypatch.setenv("SECATEUR_DEVICES", str(path))
    return path


def test_devices_are_kept(file: Path) -> None:
    """What was added is listed in order of names, found, opened by its name, and gone once removed."""
    assert list_devices() == {}
    assert add_device("pi", PI) == file
    add_device("a72", A72)
    assert list(list_devices().items()) == [("a72", A72), ("pi", PI)]
    assert find_device("pi") == PI
    assert open_device("pi").url == PI.url
    assert remove_device("pi") == PI
    assert list_devices() == {"a72": A72}
    assert json.loads(file.read_text()) == {"format": 1, "devices": {"a72": {"url": "qemu://cortex-a72"}}}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_taken_name_is_refused() -> None:
    """A device is not replaced by accident."""
    add_device("pi", PI)
    with pytest.raises(InputError, match='"pi" is taken by ssh://pi@board:2222; remove that first'):
        add_device("pi", A72)
    assert find_device("pi") == PI


@pytest.mark.parametrize("name", ["", "local", "-x", "a b", "ssh://pi", "../x", "x" * 65, "$(id)", "ä"])
def test_an_unfit_name_is_refused(file: Path, name: str) -> None:
    """A name is a plain word that is no device already."""
    with pytest.raises(InputError, match="found the name"):
        add_device(name, PI)
    assert not file.exists()


def test_an_unknown_name_lists_the_known_ones() -> None:
    """Opening, finding and removing say which names there are."""
    with pytest.raises(InputError, match='no device is registered as "board"; registered: none yet'):
        open_device("board")
    add_device("pi", PI)
    add_device("a72", A72)
    for ask in (open_device, find_device, remove_device):
        with pytest.raises(InputError, match="registered: a72, pi"):
            ask("board")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{\n "format": 1,\n "devices": {,}\n}', r"devices\.json:3 is damaged: no JSON: "),
        ("[]", "found list at the top"),
        ('{"format": 2, "devices": {}}', 'expected an object with "format": 1'),
        (
            '{"format": 1,\n "devices": {\n  "pi": {"url": "ssh://-oX"}}}',
            r"json:3 pi: url: found the device",
        ),
        ('{"format": 1,\n "devices": {"pi":\n {"url": "local", "colour": 1}}}', r"json:2 pi: colour: Extra inputs"),
        ('{"format": 1, "devices": {"pi": 3}}', r"json:1 pi: device: "),
        ('{"format": 1, "devices": {"a b": {"url": "local"}}}', "'a b' is not a name for a device"),
        ("\udcff", "no text in UTF-8; expected .*move it away"),
    ],
)
def test_a_damaged_file_says_where(file: Path, content: str, expected: str) -> None:
    """The line and the key are told, and nothing is written over it."""
    file.parent.mkdir()
    file.write_bytes(content.encode(errors="surrogateescape"))
    for ask in (list_devices, lambda: add_device("new", A72), lambda: open_device("pi")):
        with pytest.raises(InputError, match=expected):
            ask()
    assert file.read_bytes() == content.encode(errors="surrogateescape")


def test_a_file_that_cannot_be_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is a file is told, with the variable that names another place."""
    file.parent.write_text("")
    with pytest.raises(InputError, match="set SECATEUR_DEVICES to another file"):
        add_device("pi", PI)
    monkeypatch.setenv("SECATEUR_DEVICES", str(file.parent.parent))
    with pytest.raises(InputError, match="is a folder"):
        list_devices()


def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk that is full in the middle costs the new device, not those there were."""
    add_device("pi", PI)
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        add_device("a72", A72)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without $SECATEUR_DEVICES it is in the folder for settings, or in ~/.config."""
    monkeypatch.delenv("SECATEUR_DEVICES")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert registry_file() == tmp_path / "config" / "secateur" / "devices.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry_file() == tmp_path / ".config" / "secateur" / "devices.json"
