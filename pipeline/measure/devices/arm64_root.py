"""Builds a folder with the files of a small arm64 system, for programs that run under qemu-aarch64.

Debian packages are unpacked, not installed (`debian_packages`). Python comes from there; numpy and the runtimes are
wheels of the versions that are installed here, so that a difference in outputs is the processor's.

Sources: the machine's own apt sources, which must have arm64 (Debian's have), and the index of packages that pip uses.
Cost: half a minute and 250 MB (350 MB with OpenVINO), once; kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import DeviceError
from pipeline.core.partial import partial_folder
from pipeline.core.paths import cache_root
from pipeline.core.runtimes import DEFAULT_RUNTIME, RUNTIMES
from pipeline.measure.devices.debian_packages import check_programs, download, run, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Raise it when the same packages and wheels are to be put together in another way.
REVISION = 1
ARCHITECTURE = "arm64"
PACKAGES = ("base-files", "libgomp1", "libpython3-stdlib", "libstdc++6", "python3-minimal")
LIBRARIES = ("numpy", RUNTIMES[DEFAULT_RUNTIME].package)
#: Oldest C libraries that wheels are built for: glibc 2.17 to that of the root.
_OLDEST_GLIBC = 17


def silent(_text: str) -> None:
    """Tell nobody."""


def build_root(libraries: Sequence[str] = LIBRARIES, *, note: Callable[[str], None] = silent) -> Path:
    """Return the root with these libraries, building it in the cache folder when it is not there yet.

    `note` is told in a few words what is being done. Two builds at a time do not disturb each other; the first counts.

    Raises:
        DeviceError: a program is missing, with what to install, or one failed, with its last words.
    """
    wanted = {name: _installed_version(name) for name in libraries}
    root = cache_root() / "arm64-root" / _key(wanted)
    if root.is_dir():
        return root
    check_programs("build an arm64 root", "; or give a ready folder (option root)")
    try:
        with partial_folder(root) as work:
            _build(work, wanted, note)
            _finish(work / "root", root)
    except OSError as error:
        raise DeviceError(f"the arm64 root cannot be built next to {root}: {error.strerror}") from error
    return root


def root_python(root: Path) -> Path:
    """Return the Python of a root.

    Raises:
        DeviceError: there is none.
    """
    found = sorted((root / "usr" / "bin").glob("python3.[0-9]*[0-9]"))
    if not found:
        raise DeviceError(f"{root} holds no usr/bin/python3.*: give a root with Python, or none, and one is built")
    return found[-1]


def _build(work: Path, wanted: Mapping[str, str], note: Callable[[str], None]) -> None:
    root = work / "root"
    note("arm64 root: fetching Debian packages")
    archives = download(PACKAGES, ARCHITECTURE, work / "apt")
    note(f"arm64 root: unpacking {len(archives)} packages")
    unpack(archives, root)
    note("arm64 root: fetching " + ", ".join(f"{name} {number}" for name, number in wanted.items()))
    _wheels(work / "wheels", root, wanted, _glibc(archives))
    note("arm64 root: compiling Python modules")
    _compile(root)


def _finish(built: Path, root: Path) -> None:
    """Move a root to its place, unless another build was faster."""
    try:
        built.rename(root)
    except OSError:
        if not root.is_dir():
            raise


def _installed_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError as error:
        raise DeviceError(f"{name} is not installed here: the arm64 root uses the same version; install it") from error


def _key(wanted: Mapping[str, str]) -> str:
    """Name a root after all that it is made of: the release whose packages apt gets, and the wheels' versions."""
    release = Path("/etc/os-release")
    parts = [REVISION, *PACKAGES, release.read_text() if release.is_file() else "", sorted(wanted.items())]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _glibc(archives: Sequence[Path]) -> int:
    """Return the minor version of the root's C library: 36 for 2.36."""
    names = [archive.name.split("_")[1] for archive in archives if archive.name.startswith("libc6_")]
    return int(names[0].split("-")[0].split(".")[1]) if names else _OLDEST_GLIBC


def _wheels(folder: Path, root: Path, wanted: Mapping[str, str], glibc: int) -> None:
    """Download wheels for the root's Python and C library, and put them into it."""
    python = root_python(root).name.removeprefix("python")
    abi = "cp" + python.replace(".", "")
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(glibc, _OLDEST_GLIBC - 1, -1)]
    kinds = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    kinds += [word for name in (abi, "abi3", "none") for word in ("--abi", name)]
    kinds += [word for name in (*platforms, "manylinux2014_aarch64", "any") for word in ("--platform", name)]
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    run([*pip, "download", *quiet, *kinds, "--dest", str(folder), *(f"{n}=={v}" for n, v in wanted.items())])
    target = root / "usr" / "local" / "lib" / f"python{python}" / "dist-packages"
    files = [str(path) for path in sorted(folder.glob("*.whl"))]
    run([*pip, "install", *quiet, *kinds, "--no-compile", "--no-deps", "--no-index", "--target", str(target), *files])


def _compile(root: Path) -> None:
    """Compile the modules where this Python is of the root's version; otherwise the emulated one does at each start."""
    if root_python(root).name != f"python3.{sys.version_info.minor}":
        return
    folders = [root / "usr" / "lib" / root_python(root).name, root / "usr" / "local" / "lib" / root_python(root).name]
    command = [sys.executable, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash"]
    run([*command, "-s", str(root), *map(str, folders)])
