"""How tests are shared out and what is told of those that were skipped; the toy project, and the wheel that ships."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import optional
from tests.commands import Commands
from tests.exporter import keep_tables
from tests.project import SMALL_STAGES, Project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pipeline", "recipes", "models", "tests", "benchmarks")

# Assertions in modules that tests share say what they compared, as those in tests do.
pytest.register_assert_rewrite("tests.unit.compress.pruning.networks", "tests.unit.compress.quantization")

# Processes share the cores: none of them takes all. What is started by a test inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
UNTRIED = "secateur/untried"
#: Files that one process runs, one after the other: those that take times, and those that share what is long to make.
TOGETHER = {
    "tests/unit/measure/test_harness.py": "times",
    "tests/packaging/test_packaging.py": "wheel",
    "tests/examples/test_examples.py": "wheel",
    **dict.fromkeys(
        (
            "tests/recipes/test_bundle.py",
            "tests/recipes/test_chain.py",
            "tests/recipes/test_factorize.py",
            "tests/recipes/test_inspect.py",
            "tests/recipes/test_precision.py",
            "tests/torture/test_damaged.py",
            "tests/torture/test_interrupted.py",
            "tests/torture/test_user_code.py",
            "tests/unit/api/test_api.py",
            "tests/unit/cli/test_inspect.py",
            "tests/unit/network/test_odd_networks.py",
        ),
        "commands",
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `make untried` and `make torture`."""
    parser.addoption("--torture", action="store_true", help="all of tests/torture; without it a part")
    parser.addoption("--untried", action="store_true", help="only what the last run skipped for want of a program")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process is left alone with one at the end."""
    if config.getoption("untried"):
        wanted = set(config.cache.get(UNTRIED, []) if getattr(config, "cache", None) else [])
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in wanted])
        items[:] = [item for item in items if item.nodeid in wanted]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:  # noqa: ANN401 - xdist's own
    """Give all tests of a file, or of the files that are to stay together, to the same process."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - in the environment of `make setup` alone

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if config.getoption("torture") else TOGETHER.get(file, file)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - pytest's own
    """Tell what was not tried and what installs it; the names are kept for `--untried`."""
    skipped = {
        each.nodeid: each.longrepr[2].removeprefix("Skipped: ") for each in terminalreporter.stats.get("skipped", [])
    }
    if getattr(config, "cache", None):
        config.cache.set(UNTRIED, sorted(name for name, why in skipped.items() if optional.brings(why)))
    if skipped:
        terminalreporter.section("not tried here")
        for line in optional.told(skipped.values()):
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Do not fail where nothing was left to try."""
    if session.config.getoption("untried") and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session", autouse=True)
def _loaded_once() -> None:
    """Let torch's exporter make its tables once, and the collector of garbage pass over what was loaded by then."""
    keep_tables()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Return the warm process that runs commands; it starts with the first."""
    warm = Project(tmp_path_factory.mktemp("warm") / "project")
    warm.stages(SMALL_STAGES, width=8)
    found = Commands(warm.folder)
    yield found
    found.close()


@pytest.fixture
def project(tmp_path: Path, commands: Commands) -> Project:
    """Return a fresh toy project."""
    return Project(tmp_path, commands)


@pytest.fixture(scope="session")
def new_project(commands: Commands) -> Callable[[Path], Project]:
    """Return what makes a toy project in a folder, for fixtures that live longer than a test."""
    return partial(Project, commands=commands)


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]
) -> tuple[Project, subprocess.CompletedProcess[str]]:
    """Return a project whose recipe has run once, and what the command printed."""
    done = new_project(tmp_path_factory.mktemp("finished"))
    return done, done.command("run", "toy.yaml", "--json")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, without network."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copyfile(source, copy / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(copy)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built
