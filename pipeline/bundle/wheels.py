"""Wheels of pinned packages with their hashes, for every Python and processor that a bundle is for.

Those of the versions that this program is tested with stand in wheels.json, which
`python -m pipeline.bundle.write_wheels` writes. For other versions pip is asked, and its answer is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from pipeline.bundle.json_text import json_text
from pipeline.core.errors import InputError
from pipeline.core.partial import write_whole
from pipeline.core.paths import cache_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.core.stage import Progress

    #: File name and sha256 by place, such as "3.11 aarch64".
    Wheels = Mapping[str, tuple[str, str]]

_PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
PLACES = tuple(f"{python} {machine}" for machine in MACHINES for python in _PYTHONS)
KNOWN = Path(__file__).with_name("wheels.json")
#: Versions of glibc whose wheels are looked for, newest first; pip knows no "this or older" for another machine.
GLIBC = (*(f"manylinux_2_{minor}" for minor in range(39, 16, -1)), "manylinux2014")
_TIMEOUT_S = 300


class NoAnswerError(Exception):
    """Pip gave no wheels for a place; the text is its reason."""


def wheels_of(pins: Iterable[str], progress: Progress) -> dict[str, Wheels]:
    """Return the wheels of pins such as "numpy==2.4.6".

    A place for which a package has no wheel is left out, and noted.

    Raises:
        InputError: a version is not known here, and pip gives no wheel of it for any place.
    """
    wanted = sorted(pins)
    known = {pin: found for pin in wanted if (found := known_wheels(pin))}
    unknown = [pin for pin in wanted if pin not in known]
    if not unknown:
        return known
    asked, refused = _ask_everywhere(unknown, progress)
    if not asked:
        raise InputError(
            f"the hashes of {', '.join(unknown)} are not known, and pip gives none: {next(iter(refused.values()))}. "
            f"Make the bundle where pip reaches a package index (its answer is cached in {_cache()}), or install the "
            "versions in constraints.txt, whose hashes come with this program"
        )
    for place, reason in refused.items():
        progress.note(f"bundle: the requirements do not cover CPython {place}: {reason}")
    for pin in unknown:
        known[pin] = {place: wheels[pin] for place, wheels in asked.items()}
        if not refused:
            _cache().mkdir(parents=True, exist_ok=True)
            write_whole(_cache_file(pin), json_text(known[pin]))
    return known


def known_wheels(pin: str) -> Wheels | None:
    """Return what is known of a pin without asking anybody."""
    coming_with_us = json.loads(KNOWN.read_text(encoding="utf-8"))["wheels"]
    if pin in coming_with_us:
        return _typed(coming_with_us[pin])
    kept = _cache_file(pin)
    return _typed(json.loads(kept.read_text(encoding="utf-8"))) if kept.is_file() else None


def ask_pip(pins: Iterable[str], place: str) -> dict[str, tuple[str, str]]:
    """Return file name and sha256 of the wheels that pip would install there, by pin. Nothing is installed.

    Raises:
        NoAnswerError: there is no such wheel, no index, or no pip.
    """
    python, machine = place.split()
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--no-input"]
    command += ["--quiet", "--disable-pip-version-check", "--report", "-", "--only-binary", ":all:"]
    command += ["--implementation", "cp", "--python-version", python]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    for glibc in GLIBC:
        command += ["--platform", f"{glibc}_{machine}"]
    with tempfile.TemporaryDirectory() as target:
        try:
            done = subprocess.run(  # noqa: S603 - pip, started with a list of arguments
                [*command, "--target", target, *pins], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise NoAnswerError(f"pip did not answer within {_TIMEOUT_S} s") from error
        except subprocess.CalledProcessError as error:
            raise NoAnswerError((error.stderr.strip().splitlines() or ["it ended without a message"])[-1]) from error
    return dict(_read(item) for item in json.loads(done.stdout)["install"])


def _read(item: Mapping[str, dict[str, dict[str, dict[str, str]]]]) -> tuple[str, tuple[str, str]]:
    """Return pin, file name and sha256 of one entry of pip's report."""
    download, metadata = item["download_info"], item["metadata"]
    name = unquote(urlsplit(str(download["url"])).path.rpartition("/")[2])
    sha256 = download.get("archive_info", {}).get("hashes", {}).get("sha256")
    if not sha256:
        raise NoAnswerError(f"the index gives no sha256 of {name}")
    return f"{canonicalize_name(str(metadata['name']))}=={metadata['version']}", (name, sha256)


def _ask_everywhere(
    pins: list[str], progress: Progress
) -> tuple[dict[str, dict[str, tuple[str, str]]], dict[str, str]]:
    """Return the wheels by place, and for the other places the reason why there are none."""
    asked: dict[str, dict[str, tuple[str, str]]] = {}
    refused: dict[str, str] = {}
    for done, place in enumerate(PLACES):
        progress.update(done, len(PLACES), f"bundle: asking pip for wheels of {', '.join(pins)} for CPython {place}")
        try:
            asked[place] = ask_pip(pins, place)
        except NoAnswerError as error:
            refused[place] = str(error)
    return asked, refused


def _typed(wheels: Mapping[str, list[str]]) -> Wheels:
    return {place: (name, sha256) for place, (name, sha256) in wheels.items()}


def _cache() -> Path:
    return cache_root() / "wheels"


def _cache_file(pin: str) -> Path:
    return _cache() / f"{pin.replace('==', '-')}.json"
