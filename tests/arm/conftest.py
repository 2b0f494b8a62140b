"""Emulated ARM processors, an ssh device that is one, and a table of what they computed at the end.

What cannot be run here is skipped and told by its name; where no processor could be asked the exit code is 77.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import DeviceError, InputError
from pipeline.data import data_digest
from pipeline.data.config import Elpv, FashionMnist
from pipeline.measure.devices.arm64_root import LIBRARIES, build_root
from pipeline.measure.devices.qemu import QemuDevice
from tests.arm.lab import Lab, Question
from tests.optional import require
from tests.unit.measure.devices.conftest import sshd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.measure.devices.sshd import Sshd

__all__ = ["sshd"]

PROCESSORS = ("cortex-a72", "cortex-a76")
ALL_LIBRARIES = (*LIBRARIES, "openvino")
NOTHING_RAN = 77
LAB = pytest.StashKey[Lab]()


@pytest.fixture(scope="session")
def arm64_root() -> Path:
    """Return an arm64 root with both runtimes; that of `qemu://` with onnxruntime alone is there, too."""
    require("qemu-aarch64", "apt-get", "dpkg-deb")
    try:
        roots = [build_root(libraries) for libraries in (LIBRARIES, ALL_LIBRARIES)]
    except DeviceError as error:
        pytest.skip(f"no arm64 root can be built here: {error}")
    for root in roots:
        for cpu in PROCESSORS:  # each processor's view of a root is made once, before several ask for it
            QemuDevice(cpu, root).command()
    return roots[1]


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return what makes bundles and asks devices."""
    require_data()
    made = request.config.stash[LAB] = Lab(tmp_path_factory.mktemp("lab"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def processors(request: pytest.FixtureRequest, lab: Lab, arm64_root: Path) -> Lab:  # noqa: ARG001 - emulators need it
    """Return the same where processors can be emulated. All that the tests of this run will ask is begun at once."""
    for item in request.session.items:
        given = getattr(item, "callspec", None)
        if given and set(Question._fields) <= set(given.params):
            lab.ask(Question(**{name: given.params[name] for name in Question._fields}))
    return lab


def require_data() -> None:
    """Skip where the data sets of the recipes are not installed."""
    for config in (FashionMnist(source="fashion-mnist"), Elpv(source="elpv")):
        try:
            data_digest(config)
        except InputError as error:
            pytest.skip(str(error))


@pytest.fixture
def board(lab: Lab, sshd: Sshd, arm64_root: Path, tmp_path: Path) -> str:
    """Register an ssh device whose python3 is an aarch64 one, and return its name."""
    command = shlex.join(QemuDevice("cortex-a72", arm64_root).command("-s"))
    (tmp_path / "python3").write_text(f'#!/bin/sh\nunset PYTHONPATH PYTHONHOME\nexec {command} "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    sshd.login(f'#!/bin/sh\nPATH={tmp_path}:$PATH\nexport PATH\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    record = sshd.record()
    options = {"--identity": record.identity, "--known-hosts": record.known_hosts, "--config": record.config}
    words = [str(word) for pair in options.items() for word in pair]
    done = lab.command("device", "add", tmp_path.name, record.url, "--folder", str(sshd.files), *words)
    assert done.returncode == 0, done.stderr
    return tmp_path.name


class Report:
    """Tells what was computed and what was not, where tests of this folder run."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        """Show the table, and what was skipped by its name."""
        made = config.stash.get(LAB, None)
        terminalreporter.section("outputs on ARM beside those expected")
        for line in made.table() if made and made.answers else ["nothing was verified on ARM"]:
            terminalreporter.write_line(line)
        for report in terminalreporter.stats.get("skipped", ()):
            why = report.longrepr[2].removeprefix("Skipped: ")
            terminalreporter.write_line(f"skipped: {report.nodeid} ({why})")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Do not end as passed where no processor was asked."""
        stats = session.config.pluginmanager.get_plugin("terminalreporter").stats
        made = session.config.stash.get(LAB, None)
        if stats.get("skipped") and not (made and made.answers) and not session.exitstatus:
            session.exitstatus = NOTHING_RAN


def pytest_collection_finish(session: pytest.Session) -> None:
    """Report where a test of this folder is among those that run."""
    if any(item.get_closest_marker("arm") for item in session.items):
        session.config.pluginmanager.register(Report())
