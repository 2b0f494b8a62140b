"""A stand-in for a device's adbd: the protocol of adb over TCP; shell and files are this machine's.

Serves the real adb client: CNXN, OPEN, WRTE, OKAY, CLSE; the services `shell,v2` (without a terminal) and `sync` (STAT
and SEND). It shows that commands, exit codes and files pass through adb; it is no Android.

    fake_adbd.py PORT [--unauthorized] [--path FOLDER]

`--path` is put before the PATH of commands, so that a python3 there is the device's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import socket
import struct
import subprocess
import threading
from pathlib import Path

VERSION, LARGEST = 0x01000001, 65536
BANNER = b"device::ro.product.name=fake;ro.product.model=fake;ro.product.device=fake;features=shell_v2,cmd"
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
TOKEN = 1


def command(name: bytes) -> int:
    """Return the number that a command's four letters stand for."""
    return int(struct.unpack("<I", name)[0])


class Stream:
    """One service that the client has opened."""

    def __init__(self, link: Link, local: int, remote: int) -> None:
        self.link, self.local, self.remote = link, local, remote
        self.incoming: queue.Queue[bytes] = queue.Queue()
        self._may_write = threading.Semaphore(1)
        self._rest = b""
        self._lock = threading.Lock()

    def acknowledged(self) -> None:
        """Take note that the client has taken the last piece."""
        self._may_write.release()

    def write(self, data: bytes) -> None:
        """Send data, one piece at a time."""
        with self._lock:
            for at in range(0, len(data), LARGEST):
                self._may_write.acquire()
                self.link.send(b"WRTE", self.local, self.remote, data[at : at + LARGEST])

    def read(self, size: int) -> bytes:
        """Return so many bytes; EOFError when the client has closed the stream before."""
        while len(self._rest) < size:
            piece = self.incoming.get()
            if not piece:
                raise EOFError
            self._rest += piece
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def close(self) -> None:
        """Tell the client that there is no more."""
        self.link.send(b"CLSE", self.local, self.remote)


class Link:
    """A connection of a client."""

    def __init__(self, connection: socket.socket, arguments: argparse.Namespace) -> None:
        self.connection, self.arguments = connection, arguments
        self.streams: dict[int, Stream] = {}
        self._lock = threading.Lock()

    def send(self, name: bytes, first: int, second: int, data: bytes = b"") -> None:
        """Send one message."""
        number = command(name)
        header = struct.pack("<6I", number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF)
        with self._lock, contextlib.suppress(OSError):
            self.connection.sendall(header + data)

    def serve(self) -> None:
        """Answer messages until the client goes."""
        with self.connection, self.connection.makefile("rb") as source:
            while len(header := source.read(24)) == 24:
                name, first, second, size, _, _ = struct.unpack("<4s5I", header)
                self._answer(name, first, second, source.read(size))
        for stream in self.streams.values():
            stream.incoming.put(b"")

    def _answer(self, name: bytes, first: int, second: int, data: bytes) -> None:
        if name in {b"CNXN", b"AUTH"}:
            if self.arguments.unauthorized:
                self.send(b"AUTH", TOKEN, 0, bytes(20))
            else:
                self.send(b"CNXN", VERSION, LARGEST, BANNER)
        elif name == b"OPEN":
            self._open(first, data.rstrip(b"\0").decode())
        elif second in self.streams:
            stream = self.streams[second]
            if name == b"OKAY":
                stream.acknowledged()
            elif name == b"WRTE":
                stream.incoming.put(data)
                self.send(b"OKAY", second, first)
            elif name == b"CLSE":
                self.streams.pop(second).incoming.put(b"")

    def _open(self, remote: int, service: str) -> None:
        local = len(self.streams) + 1 + remote
        stream = Stream(self, local, remote)
        kind, _, rest = service.partition(":")
        target = {"shell": shell, "sync": sync}.get(kind.partition(",")[0])
        if target is None:
            self.send(b"CLSE", 0, remote)
            return
        self.streams[local] = stream
        self.send(b"OKAY", local, remote)
        threading.Thread(target=target, args=(stream, rest, self.arguments), daemon=True).start()


def shell(stream: Stream, line: str, arguments: argparse.Namespace) -> None:
    """Run a command with `sh` and pass its streams and its exit code."""
    environment = dict(os.environ)
    if arguments.path:
        environment["PATH"] = f"{arguments.path}:{environment['PATH']}"
    pipe = subprocess.PIPE
    process = subprocess.Popen(["/bin/sh", "-c", line], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    assert process.stdin
    assert process.stdout
    assert process.stderr

    def pass_on(source: int, number: int) -> None:
        while data := os.read(source, LARGEST):
            stream.write(struct.pack("<BI", number, len(data)) + data)

    readers = [
        threading.Thread(target=pass_on, args=(source.fileno(), number))
        for source, number in ((process.stdout, STDOUT), (process.stderr, STDERR))
    ]
    for reader in readers:
        reader.start()
    threading.Thread(target=feed, args=(stream, process), daemon=True).start()
    for reader in readers:
        reader.join()
    stream.write(struct.pack("<BI", EXIT, 1) + bytes([process.wait() & 0xFF]))
    stream.close()


def feed(stream: Stream, process: subprocess.Popen[bytes]) -> None:
    """Give the command what the client sends, and an end of input when the client ends it or goes."""
    assert process.stdin
    with contextlib.suppress(EOFError, BrokenPipeError), process.stdin:
        while True:
            number, size = struct.unpack("<BI", stream.read(5))
            data = stream.read(size)
            if number == STDIN:
                process.stdin.write(data)
                process.stdin.flush()
            elif number == CLOSE_STDIN:
                return


def sync(stream: Stream, _rest: str, _arguments: argparse.Namespace) -> None:
    """Take files."""
    with contextlib.suppress(EOFError):
        while True:
            name, size = struct.unpack("<4sI", stream.read(8))
            if name == b"QUIT":
                break
            path = stream.read(size).decode()
            if name in {b"STAT", b"LSTA"}:
                file = Path(path)
                found = file.stat() if file.exists() else None
                numbers = (found.st_mode, found.st_size, int(found.st_mtime)) if found else (0, 0, 0)
                stream.write(struct.pack("<4s3I", b"STAT", *numbers))
            elif name == b"SEND":
                failure = receive(stream, Path(path.rpartition(",")[0])).encode()
                stream.write(struct.pack("<4sI", b"FAIL" if failure else b"OKAY", len(failure)) + failure)
    stream.close()


def receive(stream: Stream, file: Path) -> str:
    """Write a file; return why that failed, or nothing. What comes is read to its end either way."""
    failure = ""
    try:
        target = file.open("wb")
    except OSError as error:
        target, failure = Path(os.devnull).open("wb"), f"couldn't create file: {error.strerror}"  # noqa: SIM115
    with contextlib.suppress(OSError), target:
        while True:
            name, size = struct.unpack("<4sI", stream.read(8))
            if name == b"DONE":
                break
            data = stream.read(size)
            try:
                target.write(data)
                target.flush()
            except OSError as error:
                failure = failure or f"write failed: {error.strerror}"
    return failure


def main() -> None:
    """Listen on the loopback interface."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--unauthorized", action="store_true")
    parser.add_argument("--path")
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", arguments.port)) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=Link(connection, arguments).serve, daemon=True).start()


if __name__ == "__main__":
    main()
