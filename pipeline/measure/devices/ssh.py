"""A device reached by the system's ssh, with the user's own settings, agents and jump hosts.

Nothing is asked: no password, and no host key is accepted that is not known already. The device needs an sh, tar,
python3 with numpy, and a runtime.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import tempfile
import threading
from typing import IO, TYPE_CHECKING, ClassVar, NamedTuple

from pipeline.core.errors import DeviceError
from pipeline.measure.devices import remote_shell, ssh_errors
from pipeline.measure.devices.remote_shell import BYTE_S, COMMAND_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pipeline.measure.devices.remote_shell import There

#: Stricter and quieter than the user's settings may be: nothing is asked, forwarded or started beside the command, and
#: a line that has gone silent is given up after a quarter of a minute.
SETTINGS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ControlMaster": "no",
    "EscapeChar": "none",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}


class Done(NamedTuple):
    """How a command on the device ended."""

    code: int
    out: str
    words: str


class SshDevice(remote_shell.ShellDevice):
    """A machine that the system's ssh reaches."""

    folder: ClassVar[str] = "~/.cache/secateur-worker"

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the device's Python on a file there.

        Raises:
            DeviceError: ssh is not installed.
        """
        command = self.command(remote_shell.run_command(self._python, script, *arguments))
        return _started(command, subprocess.PIPE, subprocess.PIPE)

    def command(self, remote: str) -> list[str]:
        """Return the arguments that run a line for a shell on the device."""
        address, record = self.record.address, self.record
        words = ["ssh", "-T", *(["-F", str(record.config)] if record.config else [])]
        settings = dict(SETTINGS)
        if record.identity:
            settings |= {"IdentityFile": _setting(record.identity), "IdentitiesOnly": "yes"}
        if record.known_hosts:
            settings |= {"UserKnownHostsFile": _setting(record.known_hosts), "GlobalKnownHostsFile": "/dev/null"}
        if record.identity or record.known_hosts:  # a connection that is open already was made with others
            settings["ControlPath"] = "none"
        words += [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        words += ["-p", str(address.port)] if address.port else []
        words += ["-l", address.user] if address.user else []
        return [*words, "--", address.what, remote]

    def _send_missing(self, files: Mapping[str, Path], mark: str) -> There:
        done = self._run(remote_shell.list_command(mark, self._folder, self._python, files))
        there = remote_shell.listed(done.out, mark, files, self._python, self.url)
        missing = remote_shell.missing_sizes(files, there)
        if missing and not there.has_tar:
            raise DeviceError(f"{self.url}: no tar there: install it (busybox has one)")
        if missing:
            command = remote_shell.take_command(there.folder, mark, missing)
            limit_s = COMMAND_S + sum(missing.values()) * BYTE_S
            self._run(command, lambda stream: _write_tar(stream, {name: files[name] for name in missing}), limit_s)
        return there

    def _run(self, remote: str, write: Callable[[IO[bytes]], None] | None = None, limit_s: float = COMMAND_S) -> Done:
        """Run a line on the device to its end; raises DeviceError when it fails, or does not end within `limit_s`."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as words:
            process = _started(self.command(remote), out, words)
            watch = _Watch(process, limit_s)
            try:
                # A device that refuses stops reading; why, it says on stderr.
                with contextlib.suppress(BrokenPipeError), process.stdin or io.BytesIO() as stream:
                    if write:
                        write(stream)
                process.wait()
            finally:
                watch.cancel()
                watch.join()
                process.kill()
                process.wait()
            if watch.late:
                raise DeviceError(f"{self.url}: ssh did not end within {limit_s:.0f} s; is the device alive?")
            texts = []
            for stream in (out, words):
                stream.seek(0)
                texts.append(stream.read().decode(errors="replace"))
        done = Done(process.returncode, *texts)
        if done.code == ssh_errors.OWN_FAILURE:
            raise ssh_errors.explain(self.record, done.words)
        if done.code:
            raise remote_shell.refusal(self.url, self._folder, done.code, done.words)
        return done


class _Watch(threading.Timer):
    """Kills a process that does not end in time: what waits for it, or writes to it, then goes on."""

    def __init__(self, process: subprocess.Popen[bytes], limit_s: float) -> None:
        super().__init__(limit_s, self._kill)
        self.process, self.late, self.daemon = process, False, True
        self.start()

    def _kill(self) -> None:
        self.late = True
        self.process.kill()


def _started(command: list[str], out: int | IO[bytes], words: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start ssh in a session of its own: without a terminal to ask on, and left alone by an interruption."""
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=words, start_new_session=True)
    except FileNotFoundError as error:
        raise DeviceError("ssh was not found: install openssh-client") from error


def _setting(path: Path) -> str:
    """Return a path as one word of ssh's settings, where a percent sign and a blank mean something."""
    return '"' + str(path).replace("%", "%%") + '"'


def _write_tar(stream: IO[bytes], files: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o600
            with path.open("rb") as content:
                archive.addfile(entry, content)
