"""Makes a stand-in for the Dockerfile's base image where no registry can be reached, of this machine's Debian packages.

The packages are those of the Debian release that this machine's apt has: its Python with pip and venv, unpacked by the
code that makes arm64 roots, for any architecture. Nothing in the Dockerfile is for this machine: how pip gets packages
here (its configuration, the certificates that it trusts) stands in the stand-in alone, and folders that the
configuration names are mounted while an image is built.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import DeviceError
from pipeline.core.paths import cache_root
from pipeline.measure.devices.debian_packages import check_programs, download, unpack
from tests.containers.engine import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.containers.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
#: Raise it when the same packages are to be put together in another way.
REVISION = 1
PACKAGES = """base-files base-passwd bash coreutils dash findutils grep gzip libc-bin libstdc++6 netbase python3-pip
python3-venv sed tar tzdata""".split()
#: What a slim image leaves out, and the note that keeps pip from installing into a Debian system.
LEFT_OUT = ("share/doc", "share/info", "share/locale", "share/man", "lib/python3*/EXTERNALLY-MANAGED")
ARCHITECTURES: Mapping[str, str] = {"x86_64": "amd64", "aarch64": "arm64"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
#: What of pip's configuration says where packages come from; files and folders are those of the container.
PIP_KEYS = ("extra-index-url", "find-links", "index-url", "no-index", "timeout", "trusted-host")
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Base:
    """The image to build on: the Dockerfile's own, or a stand-in with the folders that a build on it needs mounted."""

    image: str
    stands_in: bool = False
    folders: tuple[Path, ...] = ()

    @property
    def options(self) -> list[str]:
        """The options of a build on it."""
        mounts = [word for folder in self.folders for word in ("--volume", f"{folder}:{folder}:ro")]
        return ["--build-arg", f"BASE={self.image}", *mounts] if self.stands_in else []


def default_base() -> str:
    """Return the base image that the Dockerfile names."""
    (name,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(name)


def base_for(engine: Engine) -> Base:
    """Return the Dockerfile's own base where it is here or can be pulled, else the stand-in.

    Raises:
        UnavailableError: neither can be had, and why.
    """
    wanted = default_base()
    if engine.has(wanted):
        return Base(wanted)
    pulled = engine.call("pull", "--quiet", wanted)
    if pulled.returncode == 0:
        return Base(wanted)
    mounts = mounted_folders()
    if mounts and engine.name == "docker":
        raise UnavailableError(f"{wanted} cannot be pulled, and docker mounts no folder of packages in a build")
    return Base(stand_in(engine, native()), stands_in=True, folders=tuple(mounts))


def base_of(base: Base, engine: Engine, architecture: str) -> Base:
    """Return the same for another architecture; the Dockerfile's own has many."""
    return replace(base, image=stand_in(engine, architecture)) if base.stands_in else base


def native() -> str:
    """Return this machine's architecture, as Debian and images name it."""
    return ARCHITECTURES[platform.machine()]


def stand_in(engine: Engine, architecture: str) -> str:
    """Return the name of the stand-in, made and brought into the engine's storage if it is not there yet.

    Raises:
        UnavailableError: packages cannot be had, or the engine does not take the files.
    """
    key = _key(architecture)
    image = f"localhost/secateur-stand-in:{architecture}-{key}"
    if engine.has(image):
        return image
    archive = cache_root() / "containers" / f"stand-in-{architecture}-{key}.tar"
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".stand-in-") as work:
            _pack(Path(work), architecture)
            (Path(work) / "stand-in.tar").replace(archive)
    _bring(engine, archive, image, architecture)
    return image


def mounted_folders() -> list[Path]:
    """Return the folders on this machine that pip's configuration names, each with all that its pages refer to."""
    found = set()
    for value in pip_settings().values():
        for word in value.split():
            parts = urlsplit(word)
            folder = Path(unquote(parts.path))
            if parts.scheme in {"", "file"} and folder.is_absolute() and folder.is_dir():
                # An index refers to files beside itself.
                found.add(folder.parent if parts.scheme and folder.parent != Path("/") else folder)
    return sorted(found)


def pip_settings() -> dict[str, str]:
    """Return what this machine's pip is told about where packages come from; the environment wins, as for pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [re.fullmatch(r"(global|install|:env:)\.([a-z-]+)='(.*)'", line) for line in lines]
    told = sorted((row[1] != ":env:", row[2], row[3]) for row in rows if row and row[2] in PIP_KEYS)
    return {key: value for _, key, value in reversed(told)}


def _pack(work: Path, architecture: str) -> None:
    """Write stand-in.tar: the packages unpacked, what their scripts would have made, and pip's configuration."""
    root = work / "root"
    try:
        check_programs("make a stand-in for the base image")
        unpack(download(PACKAGES, architecture, work / "apt"), root)
    except DeviceError as error:
        raise UnavailableError(f"{default_base()} cannot be pulled, and no stand-in can be made: {error}") from error
    for pattern in LEFT_OUT:
        for path in (root / "usr").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (root / "usr/bin/python").symlink_to("python3")
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    lines = ["[global]", *(f"{key} = {value}" for key, value in pip_settings().items())]
    if CERTIFICATES.is_file():
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        lines.append(f"cert = {CERTIFICATES}")
    (root / "etc/pip.conf").write_text("\n".join([*lines, ""]))
    command = ["tar", "--create", "--owner=0", "--group=0", "--file", str(work / "stand-in.tar"), "-C", str(root), "."]
    subprocess.run(command, check=True, capture_output=True)


def _bring(engine: Engine, archive: Path, image: str, architecture: str) -> None:
    if engine.name != "buildah":
        options = ["--platform", f"linux/{architecture}"] if engine.name == "docker" else ["--arch", architecture]
        changes = ["--change", f"ENV PATH={SEARCH}", "--change", 'CMD ["python3"]']
        engine.told("import", *options, *changes, str(archive), image)
        return
    container = engine.told("from", "--arch", architecture, "scratch")
    engine.told("add", "--quiet", container, str(archive))
    engine.told("config", "--arch", architecture, "--env", f"PATH={SEARCH}", "--cmd", "python3", container)
    engine.told("commit", "--quiet", "--rm", container, image)


def _key(architecture: str) -> str:
    """Name a stand-in after all that it is made of."""
    release = Path("/etc/os-release")
    trusted = CERTIFICATES.read_bytes() if CERTIFICATES.is_file() else b""
    parts = [REVISION, architecture, *PACKAGES, release.read_text() if release.is_file() else "", pip_settings()]
    return hashlib.sha256("\n".join(map(str, parts)).encode() + trusted).hexdigest()[:12]
