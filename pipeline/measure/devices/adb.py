"""A device reached by adb: a board or a telephone with adbd, an sh, python3 with numpy, and a runtime."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, ClassVar

from pipeline.core.errors import DeviceError
from pipeline.measure.devices import remote_shell
from pipeline.measure.devices.local import started_process
from pipeline.measure.devices.remote_shell import BYTE_S, COMMAND_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.measure.devices.record import DeviceRecord
    from pipeline.measure.devices.remote_shell import There

#: What to do about a state that `adb devices` shows.
_STATES = {
    "unauthorized": "confirm this computer's key on the device's screen, or add ~/.android/adbkey.pub to its keys",
    "authorizing": "confirm this computer's key on the device's screen",
    "offline": "it does not answer: plug it in again, or run: adb reconnect",
    "no": "no permission for the USB port: install android-sdk-platform-tools-common and plug it in again",
    "bootloader": "it is in its bootloader: start its system",
}
_USABLE = ("device", "recovery")


class AdbDevice(remote_shell.ShellDevice):
    """A device that `adb devices` lists. Its server belongs to the user and goes on."""

    folder: ClassVar[str] = "/data/local/tmp/secateur-worker"

    def __init__(self, record: DeviceRecord) -> None:
        super().__init__(record)
        self._serial = record.address.what
        self._adb = ["adb", *(["-P", str(record.server_port)] if record.server_port else [])]

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the device's Python on a file there; `push` has found that the device is connected."""
        command = remote_shell.run_command(self._python, script, *arguments)
        return started_process([*self._adb, "-s", self._serial, "shell", "-T", command])

    def _send_missing(self, files: Mapping[str, Path], mark: str) -> There:
        self._require_connected()
        told = self._shell(remote_shell.list_command(mark, self._folder, self._python, files))
        there = remote_shell.listed(told, mark, files, self._python, self.url)
        missing = remote_shell.missing_sizes(files, there)
        if missing:
            self._send(there.folder, mark, missing, files)
        return there

    def _send(self, folder: str, mark: str, sizes: Mapping[str, int], files: Mapping[str, Path]) -> None:
        """Send files into a hidden folder and rename them when all are whole; on failure that folder goes."""
        self._shell(remote_shell.make_command(folder, mark, sizes))
        try:
            for name, size in sizes.items():
                target = f"{folder}/.partial-{mark}/{name}"
                source = str(files[name].resolve())
                self._done(["-s", self._serial, "push", source, target], COMMAND_S + size * BYTE_S)
            self._shell(remote_shell.finish_command(folder, mark, sizes))
        except BaseException:
            with contextlib.suppress(DeviceError):
                self._attempt(["-s", self._serial, "shell", "-T", remote_shell.remove_command(folder, mark)], COMMAND_S)
            raise

    def _require_connected(self) -> None:
        self._start_server()
        state, listed = self._state()
        if state in _USABLE:
            return
        if state is None:
            raise DeviceError(
                f"{self.url}: adb lists no device with that serial number; it lists: {', '.join(listed) or 'none'}. "
                "Plug it in and allow USB debugging; for a device on the network run: adb connect HOST:PORT"
            )
        raise DeviceError(f"{self.url}: adb lists it as {state}: {_STATES.get(state, 'start its system')}")

    def _state(self) -> tuple[str | None, list[str]]:
        code, told = self._attempt(["devices"], COMMAND_S)
        if code:
            raise DeviceError(f"{self.url}: adb cannot list devices:\n  {told.strip()}")
        rows = [line.split() for line in told.splitlines()[1:] if line.strip() and not line.startswith("*")]
        states = {row[0]: row[1] for row in rows if len(row) > 1}
        return states.get(self._serial), sorted(states)

    def _start_server(self) -> None:
        """Start adb's server unless it runs; it goes on when this ends, and so gets none of our pipes."""
        nothing = subprocess.DEVNULL
        try:
            code = subprocess.run(
                [*self._adb, "start-server"],
                stdin=nothing,
                stdout=nothing,
                stderr=nothing,
                start_new_session=True,
                timeout=COMMAND_S,
                check=False,
            ).returncode
        except FileNotFoundError as error:
            raise DeviceError("adb was not found: install adb (Android platform tools)") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"adb's server did not start within {COMMAND_S:.0f} s: adb kill-server") from error
        if code:
            raise DeviceError(
                f"adb's server cannot be started (exit code {code}): is its port in use? adb start-server"
            )

    def _shell(self, command: str) -> str:
        return self._done(["-s", self._serial, "shell", "-T", command], COMMAND_S)

    def _done(self, arguments: list[str], limit_s: float) -> str:
        """Run adb to its end and return what it printed; raises DeviceError when it fails."""
        code, told = self._attempt(arguments, limit_s)
        if code:
            if not remote_shell.FULL.search(told):
                self._require_connected()
            raise remote_shell.refusal(self.url, self._folder, code, told)
        return told

    def _attempt(self, arguments: list[str], limit_s: float) -> tuple[int, str]:
        try:
            done = subprocess.run(
                [*self._adb, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self.url}: adb {arguments[-2]} did not end within {limit_s:.0f} s") from error
        return done.returncode, done.stdout.decode(errors="replace")
