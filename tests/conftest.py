"""How tests are shared out and what is told of those that were skipped; a toy project, and the wheel that ships."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import optional

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
    "tests/recipes/test_chain.py": "finished",
    "tests/unit/api/test_api.py": "finished",
    "tests/unit/cli/test_inspect.py": "finished",
    "tests/packaging/test_packaging.py": "wheel",
    "tests/examples/test_examples.py": "wheel",
    "tests/torture/test_damaged.py": "torture",
    "tests/torture/test_interrupted.py": "torture",
    "tests/torture/test_user_code.py": "torture",
}

DEFINITION = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, features):
        hidden = self.bn1(self.conv1(features)).relu()
        return (features + self.bn2(self.conv2(hidden))).relu()


class Toy(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.fc = nn.Linear(width, classes)

    def forward(self, images):
        return self.fc(self.blocks(self.bn(self.stem(images)).relu()).mean((2, 3)))


def build(classes=2, width=16):
    return Toy(classes, width)
"""

DATA = """
import numpy as np
from pipeline.core.dataset import Dataset, Normalisation, Split


def split(count, seed):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = generator.integers(0, 100, (count, 1, 12, 12))
    images[labels == 1, :, 2:10, 2:10] += 120
    return Split(images.astype(np.uint8), labels.astype(np.int64))


def load(train=96, classes=2):
    names = tuple("abcdefgh"[:classes])
    return Dataset("toy", names, Normalisation((0.4,), (0.2,)), split(train, 0), split(40, 1), split(40, 2))
"""

RECIPE = """\
format: 1
name: toy
model: {definition: model.py, arguments: {classes: 2}}
data: {source: file, path: data.py}
target: {runtime: onnxruntime, threads: 1}
stages:
  - {kind: prune, ratio: 0.5, align: 4}
  - {kind: finetune, epochs: 3, batch: 16, learning_rate: 0.01}
  - {kind: export, to: onnx}
  - {kind: simplify}
  - {kind: quantize, images: 32}
  - {kind: export, to: openvino}
  - {kind: measure, budget: 300ms}
"""


class Project:
    """A folder with a recipe, a model and data, and a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = folder / "toy.yaml"
        (folder / "model.py").write_text(DEFINITION)
        (folder / "data.py").write_text(DATA)
        self.recipe.write_text(RECIPE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR")}
        self.environment = {**kept, "SECATEUR_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1", "COLUMNS": "140"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command in the folder."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command in the folder to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


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
def _one_table_of_operators() -> None:
    """Let torch's exporter make its table of operators once: that is more than half of the time of a small export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: PLC0415 - loads torch

    ONNXRegistry.from_torchlib = classmethod(cache(ONNXRegistry.from_torchlib.__func__))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a fresh toy project."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def new_project() -> type[Project]:
    """Return what makes a toy project in a folder, for fixtures that live longer than a test."""
    return Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, subprocess.CompletedProcess[str]]:
    """Return a project whose recipe has run once, and what the command printed."""
    done = Project(tmp_path_factory.mktemp("finished"))
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
