"""A project that runs in a second or two, and the table of what was tried."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.project import SMALL_STAGES
from tests.torture.tally import TABLE, Tally, write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.commands import Commands
    from tests.project import Project

#: Is tried by the suite elsewhere, and so in the whole campaign alone.
WHOLE_ONLY = "test_quantized_layers.py"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the suite tries elsewhere."""
    if not config.getoption("torture"):
        config.hook.pytest_deselected(items=[item for item in items if item.path.name == WHOLE_ONLY])
        items[:] = [item for item in items if item.path.name != WHOLE_ONLY]


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Return what counts right and wrong outcomes; the test fails when there was a wrong one."""
    found = Tally(full=bool(request.config.getoption("torture")))
    yield found
    for kind, (tried, wrong) in found.counts.items():
        request.node.user_properties.append((TABLE, [kind, tried, wrong]))
    assert found.tried, "nothing was tried"
    assert not found.wrong, "\n".join(found.wrong[:40])


@pytest.fixture(scope="session")
def small_project(new_project: Callable[[Path], Project]) -> Callable[[Path], Path]:
    """Return what makes a project that runs fast in a folder, which is returned."""

    def make(folder: Path) -> Path:
        new_project(folder).stages(SMALL_STAGES, width=8)
        return folder

    return make


def digests(run: Path) -> list[tuple[str, str]]:
    """Return the digests of all files of a finished run."""
    report = json.loads((run / "run.json").read_text())
    return [(row["digest"], row["artifact"]) for row in report["rows"]]


@pytest.fixture(scope="session")
def expected(commands: Commands) -> list[tuple[str, str]]:
    """Return the digests of a run that nothing disturbed."""
    commands.warm()
    return digests(commands.folder / "runs" / "toy")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - pytest's own
    """Show the table, and write it where all was tried: `make torture`."""
    reports = [each for found in terminalreporter.stats.values() for each in found]
    ended = [each for each in reports if getattr(each, "when", "") == "teardown"]
    rows = [value for each in ended for name, value in each.user_properties if name == TABLE]
    if rows:
        terminalreporter.section("torture")
        for line in write_table(rows, to_file=config.getoption("torture") and config.args == ["tests/torture"]):
            terminalreporter.write_line(line)
