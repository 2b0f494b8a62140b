"""A loopback sshd with keys of its own, for tests; nothing of the machine's ssh is read or written."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from pipeline.measure.devices.record import DeviceRecord
from tests.optional import found

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding no
UseDNS no
ForceCommand {folder}/login
"""
#: What the login shell of the device does.
LOGIN = '#!/bin/sh\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(file: Path) -> str:
    """Make a key pair and return the public one."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    return file.with_suffix(".pub").read_text()


class Sshd:
    """A running sshd. `login` is the script that runs each command that is asked for."""

    def __init__(self, folder: Path, login: str = LOGIN) -> None:
        self.folder, self.port = folder, free_port()
        self.files = folder / "device"
        self.files.mkdir(parents=True)
        (folder / "authorized_keys").write_text(make_key(folder / "user_key"))
        host_key = " ".join(make_key(folder / "host_key").split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        (folder / "ssh_config").write_text("")
        (folder / "sshd_config").write_text(CONFIG.format(port=self.port, folder=folder))
        self.login(login)
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        sshd = found("sshd")
        assert sshd
        command = [sshd, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "log")]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self._await()

    def login(self, script: str) -> None:
        """Replace what the device does at login."""
        partial = self.folder / "login.partial"
        partial.write_text(script)
        partial.chmod(0o755)
        partial.replace(self.folder / "login")

    def record(self, **options: Any) -> DeviceRecord:  # noqa: ANN401
        """Return the device, with the right keys unless others are given."""
        given: dict[str, Any] = {
            "url": f"ssh://127.0.0.1:{self.port}",
            "identity": self.folder / "user_key",
            "known_hosts": self.folder / "known_hosts",
            "config": self.folder / "ssh_config",
            "folder": str(self.files),
        }
        return DeviceRecord.model_validate({**given, **options})

    def unplug(self) -> None:
        """Cut all connections: kill every process that serves one."""
        for child in self.children():
            with contextlib.suppress(ProcessLookupError):  # its parent took it along
                os.kill(child, signal.SIGKILL)

    def close(self) -> None:
        """End it with all connections."""
        self.unplug()
        self.process.kill()
        self.process.wait()

    def children(self) -> list[int]:
        """Return the processes that have descended from it, the nearest first."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found[1:]

    def _await(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())
