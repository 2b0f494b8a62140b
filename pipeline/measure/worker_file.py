"""The worker as one file: a zip of the modules that it needs, which Python runs as it is.

It holds this project's own code only; the device needs Python, numpy and a runtime. The same modules give the same
bytes, so that a device that has the file need not be sent it again.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path

from pipeline.core.partial import write_whole
from pipeline.core.paths import cache_root

#: Modules of the worker, relative to the package's folder. None of them imports anything but these, the standard
#: library, numpy and the runtimes.
MODULES: tuple[str, ...] = (
    "__init__.py",
    "core/__init__.py",
    "core/errors.py",
    "core/runtimes.py",
    "measure/__init__.py",
    "measure/clock.py",
    "measure/machine.py",
    "measure/runtimes/__init__.py",
    "measure/runtimes/onnxruntime.py",
    "measure/runtimes/openvino.py",
    "measure/worker.py",
    "measure/worker_bench.py",
    "measure/worker_decode.py",
)
MAIN = "from pipeline.measure.worker import main\n\nmain()\n"
#: The oldest date that a zip can have: the file's bytes depend on the code alone.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@lru_cache(maxsize=1)
def worker_file() -> Path:
    """Return the worker's file in the cache folder, writing it when it is not there yet."""
    content = _content()
    folder = cache_root() / "worker"
    path = folder / f"{hashlib.sha256(content).hexdigest()}.pyz"
    if not (path.is_file() and path.stat().st_size == len(content)):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return path


def _content() -> bytes:
    root = Path(__file__).resolve().parents[1]
    with tempfile.SpooledTemporaryFile() as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), MAIN)
            for name in MODULES:
                archive.writestr(zipfile.ZipInfo(f"pipeline/{name}", _EPOCH), (root / name).read_bytes())
        stream.seek(0)
        return stream.read()
