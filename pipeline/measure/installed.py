"""Which packages a device has, and the line that installs what it lacks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def missing_packages(hello: Mapping[str, Any], needed: Iterable[str]) -> list[str]:
    """Return which of the needed packages a worker does not have, as its `hello` says."""
    return [name for name in needed if hello["packages"].get(name) is None]


def install_line(hello: Mapping[str, Any], missing: Sequence[str]) -> str:
    """Return the command that installs packages on the device, in the versions that this program runs with."""
    return f"{hello['executable']} -m pip install {' '.join(map(_pin, missing))}"


def missing_text(url: str, hello: Mapping[str, Any], missing: Sequence[str]) -> str:
    """Say what a device lacks and how to install it there."""
    return (
        f"{url}: {hello['executable']} (Python {hello['python']}) has no {' and no '.join(missing)}; "
        f"run there: {install_line(hello, missing)}"
    )


def _pin(package: str) -> str:
    """Name a package in the version that this program has, where it has it."""
    try:
        return f"{package}=={version(package).partition('+')[0]}"
    except PackageNotFoundError:
        return package
