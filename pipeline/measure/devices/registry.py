"""Devices by name: a JSON file of the user's, at $SECATEUR_DEVICES or in the folder for settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError, ResourceError
from pipeline.core.partial import write_whole
from pipeline.core.reading import read_object
from pipeline.measure.devices.record import NAME, WRITTEN, make_record

if TYPE_CHECKING:
    from pipeline.measure.devices.record import DeviceRecord

FORMAT = 1


def registry_file() -> Path:
    """Return where the file is: $SECATEUR_DEVICES, or secateur/devices.json in $XDG_CONFIG_HOME or ~/.config."""
    if named := os.environ.get("SECATEUR_DEVICES"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "secateur" / "devices.json"


def list_devices() -> dict[str, DeviceRecord]:
    """Return all registered devices by name, in order of their names; none when there is no file yet.

    Raises:
        InputError: the file cannot be read, is damaged (with the line), or holds a device that is not usable.
    """
    file = registry_file()
    if not file.exists():
        return {}
    content = read_object(file, "registered devices: fix it, move it away, or set SECATEUR_DEVICES to another file")
    if not (content.get("format") == FORMAT and isinstance(content.get("devices"), dict)):
        raise InputError(f'{file}: expected an object with "format": {FORMAT} and "devices"; fix it or move it away')
    return {name: _record(file, name, given) for name, given in sorted(content["devices"].items())}


def device_record(text: str) -> DeviceRecord:
    """Return the device that a text such as `ssh://pi@board` or a registered name stands for.

    Raises:
        InputError: it is no device and no registered name.
    """
    return find_device(text) if NAME.fullmatch(text) and text != "local" else make_record({"url": text})


def find_device(name: str) -> DeviceRecord:
    """Return the device of that name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    known = list_devices()
    if name not in known:
        raise _unknown(name, known)
    return known[name]


def add_device(name: str, record: DeviceRecord) -> Path:
    """Register a device and return the file that now holds it.

    Raises:
        InputError: the name is taken or unfit, or the file cannot be read or written.
    """
    if not NAME.fullmatch(name) or name == "local":
        raise InputError(
            f'found the name "{name}", allowed: up to 64 letters, digits, dots, hyphens and underscores, not "local"'
        )
    known = list_devices()
    if name in known:
        raise InputError(f'the name "{name}" is taken by {known[name].url}; remove that first, or choose another name')
    return _write({**known, name: record})


def remove_device(name: str) -> DeviceRecord:
    """Forget a device and return what it was; files on the device stay.

    Raises:
        InputError: there is no such name, or the file cannot be read or written.
    """
    known = list_devices()
    if name not in known:
        raise _unknown(name, known)
    _write({other: record for other, record in known.items() if other != name})
    return known[name]


def _unknown(name: str, known: dict[str, DeviceRecord]) -> InputError:
    names = ", ".join(known) or "none yet"
    return InputError(
        f'no device is registered as "{name}"; registered: {names}; add it (secateur device add), or write the device '
        f"itself: {WRITTEN}"
    )


def _record(file: Path, name: str, given: Any) -> DeviceRecord:  # noqa: ANN401 - whatever the JSON holds
    """Check one device of the file; raises InputError with the key and the line on which its name stands."""
    if not NAME.fullmatch(name):
        raise InputError(f"{file}: {name!r} is not a name for a device; rename it there")
    try:
        return make_record(given)
    except InputError as error:
        lines = file.read_text(encoding="utf-8").splitlines()
        line = next(
            (number for number, text in enumerate(lines, 1) if json.dumps(name, allow_nan=False) + ":" in text), 1
        )
        raise InputError(f"{file}:{line} {name}: {error}; fix it, or remove it and add it again") from error


def _write(devices: dict[str, DeviceRecord]) -> Path:
    """Write the file whole: a reader finds the old one or the new one, never a part."""
    file = registry_file().resolve()
    content = {
        "format": FORMAT,
        "devices": {name: devices[name].model_dump(mode="json", exclude_none=True) for name in sorted(devices)},
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(content, indent=2, allow_nan=False) + "\n")
    except (OSError, ResourceError) as error:
        raise InputError(f"{error}; set SECATEUR_DEVICES to another file") from error
    return file
