"""What is asked of the shell of a device, the same over every line to it: which files are there, take these, run this.

A command is one line for `sh`, whatever the user's login shell: a script without line ends and its arguments, each
quoted. The scripts use only what POSIX and busybox have. Files arrive in a hidden folder, are checked for size and
then renamed, so that under a final name there is always a whole file.
"""

from __future__ import annotations

import re
import secrets
import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.core.errors import DeviceError, InputError
from pipeline.measure.worker_file import worker_file

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pipeline.measure.devices.record import DeviceRecord

#: Longest time for a command that sends nothing, and what is added for each byte sent (200 kB/s at least).
COMMAND_S, BYTE_S = 60.0, 1 / 200_000
#: A file's name on the device: two parts or more, none hidden or taken for an option.
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
FILE_NAME = re.compile(f"{_PART}(/{_PART})+")
#: Exit codes of the scripts below, where they can say more than that they failed.
INCOMPLETE, NO_FOLDER = 90, 91
#: What programs say on a full disk; GNU tar tells no more than that a piece was not written whole.
FULL = re.compile("No space left on device|Disk quota exceeded|Wrote only [0-9]+ of")
#: Header of a listing: the folder, Python's path and tar's, one line each.
_HEADER = 3

_SETTINGS = "umask 077; LC_ALL=C; export LC_ALL;"
_HOME = 'at_home() { case "$1" in "~/"*) printf %s "$HOME/${1#??}";; *) printf %s "$1";; esac; };'
_LIST = (
    f'{_SETTINGS} {_HOME} mark=$1; folder=$(at_home "$2"); python=$(at_home "$3"); shift 3; '
    f'mkdir -p -- "$folder" && cd -- "$folder" || exit {NO_FOLDER}; '
    'echo "$mark"; pwd; command -v "$python" || echo; command -v tar || echo; '
    'for file; do if [ -f "$file" ]; then wc -c < "$file"; else echo -; fi; done'
)
#: Clears what a push left behind that was cut off, unless it may still be going on.
_CLEAR = "find . -maxdepth 1 -name '.partial-*' -mtime +0 -exec rm -rf {} + 2>/dev/null"
_OPEN = f'{_SETTINGS} cd -- "$1" || exit 1; part=$2; shift 2; {_CLEAR}; mkdir -- "$part" || exit 1;'
_MOVE = (
    f'while [ $# -gt 0 ]; do [ "$(wc -c < "$part/$1")" -eq "$2" ] || exit {INCOMPLETE}; '
    'mkdir -p -- "${1%/*}" && chmod 600 "$part/$1" && mv -f -- "$part/$1" "$1" || exit 1; shift 2; done'
)
_TRAP = "trap 'rm -rf -- \"$part\"' EXIT; trap 'exit 1' HUP INT TERM;"
_TAKE = f'{_OPEN} {_TRAP} tar -x -o -f - -C "$part" || exit 1; {_MOVE}'
_MAKE = f'{_OPEN} for name; do mkdir -p -- "$part/$name" || exit 1; done'
_FINISH = f'{_SETTINGS} cd -- "$1" || exit 1; part=$2; shift 2; {_TRAP} {_MOVE}'
_REMOVE = 'cd -- "$1" && rm -rf -- "$2"'
_RUN = (
    f'{_HOME} python=$(at_home "$1"); shift; ORT_DISABLE_TELEMETRY=1; export ORT_DISABLE_TELEMETRY; exec "$python" "$@"'
)


@dataclass(frozen=True)
class There:
    """What a device has: the folder for files as an absolute path, and the sizes of files."""

    folder: str
    has_tar: bool
    sizes: Mapping[str, int | None]

    def path(self, name: str) -> str:
        """Return the path of a file on the device."""
        return f"{self.folder}/{name}"


class ShellDevice(ABC):
    """A device whose shell is reached by a program of this machine."""

    emulated: ClassVar[bool] = False
    #: Where files go unless the record says otherwise.
    folder: ClassVar[str]

    def __init__(self, record: DeviceRecord) -> None:
        self.record = record
        self.url = record.url
        self._python = record.python or "python3"
        self._folder = record.folder or self.folder

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Send the files that are not there with the same size; return the path of each.

        Raises:
            InputError: a file has a name that does not fit.
            DeviceError: the device cannot be reached or refuses, its disk is full, or it lacks a program.
        """
        check_names(files)
        there = self._send_missing(files, secrets.token_hex(8))  # a word that nothing else prints or uses
        return {name: there.path(name) for name in files}

    def start(self) -> subprocess.Popen[bytes]:
        """Send the worker unless it is there, and start it; errors are those of `push` and `run`."""
        worker = worker_file()
        name = f"worker/{worker.name}"
        return self.run(self.push({name: worker})[name])

    @abstractmethod
    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the device's Python on a file there."""

    @abstractmethod
    def _send_missing(self, files: Mapping[str, Path], mark: str) -> There:
        """Send the files that are not there with the same size, by way of the hidden folder of this mark."""


def missing_sizes(files: Mapping[str, Path], there: There) -> dict[str, int]:
    """Return the sizes of the files that the device does not have with the same size."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return {name: size for name, size in sizes.items() if there.sizes[name] != size}


def check_names(names: Iterable[str]) -> None:
    """Refuse names that a shell or a file system could take for something else.

    Raises:
        InputError: a name is not `<digest>/<file name>`, or a longer path, with plain letters.
    """
    for name in names:
        if not FILE_NAME.fullmatch(name):
            raise InputError(
                f"found the file name {name.partition('/')[2]!r}, allowed on a device: letters, digits, dots, hyphens "
                "and underscores, not a dot or hyphen first; rename the file"
            )


def list_command(mark: str, folder: str, python: str, names: Iterable[str]) -> str:
    """Ask for the folder, which is made, the interpreter, and the sizes of files; `listed` reads the answer."""
    return _command(_LIST, mark, folder, python, *names)


def listed(text: str, mark: str, names: Iterable[str], python: str, url: str) -> There:
    """Read the answer to `list_command`. What a login shell prints before it is not looked at.

    Raises:
        DeviceError: the interpreter is missing, or there is no answer.
    """
    names = list(names)
    lines = [line.strip() for line in text.rpartition(f"{mark}\n")[2].splitlines()]
    if mark not in text or len(lines) != _HEADER + len(names):
        raise DeviceError(f"{url}: found {text.strip()[-200:]!r} where a list of files was expected: is there an sh?")
    if not lines[1]:
        raise DeviceError(
            f"{url}: no {python} there: install Python 3 with numpy and a runtime, or give the path of a Python that "
            "has them (option python)"
        )
    sizes = {name: int(size) if size.isdigit() else None for name, size in zip(names, lines[_HEADER:], strict=True)}
    return There(lines[0], bool(lines[2]), sizes)


def take_command(folder: str, mark: str, sizes: Mapping[str, int]) -> str:
    """Take files of these names and sizes from a tar archive on stdin; nothing is left of them when that fails."""
    return _command(_TAKE, folder, f".partial-{mark}", *_pairs(sizes))


def make_command(folder: str, mark: str, names: Iterable[str]) -> str:
    """Make a hidden folder, with its subfolders, for files that come by other means; then `finish_command`."""
    return _command(_MAKE, folder, f".partial-{mark}", *sorted({name.rpartition("/")[0] for name in names}))


def finish_command(folder: str, mark: str, sizes: Mapping[str, int]) -> str:
    """Give the files of a hidden folder their final names, and remove it."""
    return _command(_FINISH, folder, f".partial-{mark}", *_pairs(sizes))


def remove_command(folder: str, mark: str) -> str:
    """Remove a hidden folder with all that is in it."""
    return _command(_REMOVE, folder, f".partial-{mark}")


def run_command(python: str, script: str, *arguments: str) -> str:
    """Run Python on a file in place of the shell."""
    return _command(_RUN, python, script, *arguments)


def refusal(url: str, folder: str, code: int, words: str) -> DeviceError:
    """Say why the device's shell failed, as far as its exit code and its words tell."""
    lines = words.strip().splitlines() or [f"exit code {code}"]
    last = next((line for line in lines if FULL.search(line)), lines[-1])
    if FULL.search(last):
        return DeviceError(f"{url}: its disk is full: make room for {folder}, or give another folder\n  {last}")
    if code == NO_FOLDER:
        return DeviceError(f"{url}: the folder {folder} cannot be created or entered there: give another one\n  {last}")
    if code == INCOMPLETE:
        return DeviceError(f"{url}: a file arrived incomplete: is its disk full, or was the connection lost? Try again")
    return DeviceError(f"{url}: the device's shell failed (exit code {code}):\n  {last}")


def _pairs(sizes: Mapping[str, int]) -> list[str]:
    return [word for name, size in sizes.items() for word in (name, str(size))]


def _command(script: str, *arguments: str) -> str:
    return "exec " + shlex.join(["sh", "-c", script, "secateur", *arguments])
