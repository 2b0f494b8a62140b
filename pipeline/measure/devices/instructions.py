"""The plugin that counts instructions in QEMU: compiled when it is first used, and the file of marks that it writes.

A count is no time: it knows neither caches nor clock rates. Two builds of the same network compare well by it, two
kinds of network do not. It is not the same to the last digit each time; the least of a few repetitions is, to 1e-4.

The plugin is a program of its own, under QEMU's licence; nothing of it is part of the rest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from pipeline.core.errors import DeviceError
from pipeline.core.partial import partial_folder
from pipeline.core.paths import cache_root

_SOURCE = Path(__file__).with_name("count_instructions.c")
#: First argument of the prctl(MAGIC, k) that sets mark k.
MAGIC = 0x0C0FFEE5
_COMPILERS = ("cc", "gcc", "clang")
#: The first version of QEMU that has version 2 of the interface for plugins, and no longer version 1.
_NEWER_QEMU = 9
_COMPILE_S = 60


def plugin_library(qemu_version: str) -> Path:
    """Return the compiled plugin for a QEMU (`qemu-aarch64 --version`), compiling it into the cache folder at need.

    Raises:
        DeviceError: there is no C compiler, with what to install; or it failed.
    """
    source = _SOURCE.read_bytes()
    found = re.search(r"version (\d+)", qemu_version)
    api = 2 if found and int(found[1]) >= _NEWER_QEMU else 1
    folder = cache_root() / "qemu-plugin"
    library = folder / f"{hashlib.sha256(source).hexdigest()[:16]}-{os.uname().machine}-{api}.so"
    if library.is_file():
        return library
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise DeviceError("counting instructions needs a C compiler and none was found: install gcc (and libc6-dev)")
    folder.mkdir(parents=True, exist_ok=True)
    with partial_folder(library) as folder:
        made = folder / library.name
        command = [compiler, "-O2", "-fPIC", "-shared", f"-DPLUGIN_API={api}", "-o", str(made), str(_SOURCE)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_COMPILE_S, check=False
        )
        if done.returncode:
            raise DeviceError(f"{compiler} cannot compile {_SOURCE.name}; install libc6-dev?\n  {done.stderr.strip()}")
        made.replace(library)
    return library


def read_marks(file: Path) -> list[tuple[int, int]]:
    """Return the marks that have been set so far, in order: each mark's number, and the instructions executed by then.

    A line that is only half written is left for the next time.
    """
    text = file.read_text() if file.is_file() else ""
    whole, _, _ = text.rpartition("\n")
    marks = (line.split() for line in whole.splitlines())
    return [(int(mark), int(executed)) for mark, executed in marks]
