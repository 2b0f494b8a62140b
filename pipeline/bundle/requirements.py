"""What a device has to install: numpy and one runtime with all that it needs, pinned and with hashes.

pip then installs these files and no others, whatever an index serves. Versions are those that are installed here, with
which accuracy and expected outputs were taken.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.bundle.wheels import MACHINES, PLACES, wheels_of
from pipeline.core.errors import InputError
from pipeline.core.runtimes import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.bundle.content import Content
    from pipeline.bundle.wheels import Wheels

FILE = "requirements.txt"
#: glibc of wheels whose tag does not say it.
_OLD_TAGS = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}


def write_requirements(content: Content, folder: Path) -> None:
    """Write requirements.txt for the bundle's default runtime, and requirements-NAME.txt for every other one.

    Raises:
        InputError: hashes of an installed version are not known, and cannot be asked for; a package is missing.
    """
    for runtime in content.files:
        wheels = wheels_of(pinned(runtime), content.progress)
        (folder / file_name(content, runtime)).write_text(text_of(runtime, file_name(content, runtime), wheels))


def file_name(content: Content, runtime: str) -> str:
    """Return the name of the requirements of a runtime in a bundle."""
    return FILE if runtime == content.runtime else FILE.replace(".txt", f"-{runtime}.txt")


def pinned(runtime: str) -> tuple[str, ...]:
    """Return numpy, the runtime and all that they need on Linux, each as "name==version", sorted by name.

    Raises:
        InputError: one of them is not installed here.
    """
    found: dict[str, str] = {}
    waiting = ["numpy", RUNTIMES[runtime].package]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = _installed(name)
            waiting += needed_by(name)
    return tuple(f"{name}=={found[name]}" for name in sorted(found))


def needed_by(name: str) -> list[str]:
    """Return the names of the packages that an installed one needs on Linux, sorted."""
    stated = map(Requirement, requires(name) or [])
    return sorted({canonicalize_name(each.name) for each in stated if _is_needed(each)})


def text_of(runtime: str, name: str, wheels: Mapping[str, Wheels]) -> str:
    """Return the text of a requirements file; only places are listed for which every package has a wheel."""
    places = [place for place in PLACES if all(place in each for each in wheels.values())]
    glibc = {machine: _glibc(wheels, [place for place in places if place.endswith(machine)]) for machine in MACHINES}
    where = ", ".join(f"{machine} (glibc {least} or newer)" for machine, least in glibc.items() if least)
    pythons = ", ".join(dict.fromkeys(place.split()[0] for place in places))
    lines = [
        f"# {runtime} for CPython {pythons} on Linux: {where}",
        f"# pip install -r {name}",
        "--only-binary :all:",
    ]
    for pin, found in wheels.items():
        hashes = sorted({found[place][1] for place in places})
        lines.append(" \\\n    ".join([pin, *(f"--hash=sha256:{each}" for each in hashes)]))
    return "\n".join(lines) + "\n"


def _installed(name: str) -> str:
    """Return the version of a package, without what a builder added to it."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError as error:
        raise InputError(f"{name} is not installed, but a bundle must pin it: pip install {name}") from error


def _is_needed(requirement: Requirement) -> bool:
    """Return whether a requirement holds, without extras, on any of the places that a bundle is for."""
    if requirement.marker is None:
        return True
    for place in PLACES:
        python, machine = place.split()
        linux = {"os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine}
        versions = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
        if requirement.marker.evaluate({**default_environment(), **linux, **versions}):  # type: ignore[dict-item]
            return True
    return False


def _glibc(wheels: Mapping[str, Wheels], places: list[str]) -> str:
    """Return the oldest glibc that has a wheel of every package in these places, such as "2.28"; empty without any."""
    names = [found[place][0] for found in wheels.values() for place in places]
    least = [min(tags) for name in names if (tags := _tags(name))]
    return f"2.{max(least)}" if least else ""


def _tags(name: str) -> list[int]:
    """Return the minor versions of glibc that the name of a wheel states."""
    stated = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_", name)]
    return stated + [minor for tag, minor in _OLD_TAGS.items() if f"{tag}_" in name]
