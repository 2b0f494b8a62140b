"""A good bundle, made once, and the command as a user starts it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from pipeline.bundle.place import write_bundle
from tests.unit.bundle.small_content import content
from tests.unit.measure.devices.conftest import adbd, sshd

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["adbd", "good", "made", "sshd"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good bundle, as `bundle` and as `bundle.tar.gz`; nobody changes it."""
    folder = tmp_path_factory.mktemp("made")
    write_bundle(content(folder / "run"), (folder / "bundle", folder / "bundle.tar.gz"))
    return folder


@pytest.fixture
def good(made: Path, tmp_path: Path) -> Path:
    """Return a good bundle's folder that a test may change."""
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"
