"""EXAMPLES.md runs as it stands, from the installed wheel alone: its files are written, its commands are run.

The wheel is installed into a virtual environment that sees the libraries of this one, but not this checkout. Sections
go on in one folder, as the page says, so the tests of this file run in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from sysconfig import get_path
from typing import Any

import pytest
from ruamel.yaml import YAML

PAGE = Path(__file__).resolve().parents[2] / "EXAMPLES.md"
BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Exit codes of a comparison that was made: a busy machine may leave the answer open.
COMPARED = {0, 3}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    """An empty folder and the environment of someone who has only installed the wheel."""

    folder: Path
    environment: dict[str, str]

    def command(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line as a shell does."""
        command = ["bash", "-euo", "pipefail", "-c", line]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True
        )

    def follow(self, title: str) -> dict[str, str]:
        """Write the files of a section and run its commands; return what each command printed."""
        printed: dict[str, str] = {}
        for name, kind, text in blocks(title):
            if name:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_text(text)
            elif kind == "sh":
                for line in text.splitlines():
                    done = self.command(line)
                    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
                    printed[line] = done.stdout
        return printed


def blocks(title: str) -> list[tuple[str, str, str]]:
    """Return file name (empty for none), language and text of each block in a section."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (section,) = (each for each in sections if each.startswith(f"{title}\n"))
    return BLOCK.findall(section)


@pytest.fixture(scope="module")
def place(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return an empty folder and an environment with the wheel."""
    prefix = tmp_path_factory.mktemp("environment")
    venv.create(prefix, symlinks=True)
    python = prefix / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (packages,) = prefix.glob("lib/python*/site-packages")
    # A plain path: what .pth files of that folder add, such as this checkout, is not added.
    (packages / "libraries.pth").write_text(get_path("purelib") + "\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SECATEUR", "PYTHON"))}
    environment = {
        **kept,
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "SECATEUR_STORE": str(tmp_path_factory.mktemp("store")),
        "COLUMNS": "140",
    }
    return Place(tmp_path_factory.mktemp("folder"), environment)


def report(place: Place, run: str) -> dict[str, Any]:
    """Return the run.json of a run."""
    found: dict[str, Any] = json.loads((place.folder / "runs" / run / "run.json").read_text())
    return found


def test_every_block_of_the_page_is_used() -> None:
    """A block has a file's name or is commands; so none can be forgotten by the tests below."""
    sections = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    found = [block for title in sections for block in blocks(title)]
    assert len(found) == PAGE.read_text().count("\n```\n")
    assert len(found) >= 9
    assert all(name or kind == "sh" for name, kind, _ in found)


def test_own_network_and_images(place: Place) -> None:
    """From an empty folder to a bundle that is verified and classifies an image."""
    where = place.command("python -c 'import pipeline; print(pipeline.__file__)'").stdout
    assert where.startswith(str(Path(place.environment["PATH"].split(os.pathsep)[0]).parent))
    printed = place.follow("Your own network and your own images")
    rows = {row["label"]: row for row in report(place, "shapes")["rows"]}
    assert rows["quantize"]["validation"]["accuracy"] > 0.6
    assert rows["quantize"]["size_bytes"] < 0.2 * rows["original"]["size_bytes"]
    assert rows["prune"]["macs"] < 0.5 * rows["original"]["macs"]
    assert "verified" in printed["secateur verify runs/shapes/bundle.tar.gz"]
    assert re.search("circle|square|triangle", printed["python runs/shapes/bundle/infer.py images/circle/000.png"])


def test_own_arrays(place: Place) -> None:
    """Arrays of a data file, whose input is named: nothing is left to be said of them."""
    place.follow("Your own arrays")
    data = report(place, "arrays")["data"]
    assert (data["name"], data["train"] + data["validation"] + data["test"]) == ("packed shapes", 204)
    assert "notes" not in data


def test_the_same_from_python(place: Place) -> None:
    """All stages come from the store, and the bundle is the same to the byte."""
    printed = place.follow("The same from Python")["python shapes.py"]
    before, now = report(place, "shapes"), report(place, "python")
    assert all(row["cached"] for row in now["rows"])
    assert now["bundle"]["digest"] == before["bundle"]["digest"]
    assert now["bundle"]["digest"] in printed
    assert "passed" in printed
    assert all(row["label"] in printed for row in now["rows"])


def test_a_gate_for_pull_requests(place: Place) -> None:
    """The workflow's own commands run here, but for pip; the gate accepts a bundle and measures it again."""
    commands = [text for _, kind, text in blocks("A gate for pull requests") if kind == "sh"]
    written = [block for block in blocks("A gate for pull requests") if block[0]]
    for name, _, text in written:
        (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / name).write_text(text)
    assert place.command(commands[0]).returncode == 0
    workflow = YAML(typ="safe").load(place.folder / ".github" / "workflows" / "compression.yml")
    steps = [step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step]
    assert steps[0] == "pip install secateur"
    made, checked, compared = (place.command(step) for step in steps[1:])
    assert made.returncode == checked.returncode == 0, made.stderr + checked.stderr
    assert compared.returncode in COMPARED, compared.stdout + compared.stderr
    comparison = json.loads((place.folder / "runs/compare/shapes--candidate/comparison.json").read_text())
    assert comparison["baseline"]["label"] == "baselines/shapes.tar.gz"
    assert comparison["baseline"]["digest"] == comparison["candidate"]["digest"]
    for line in commands[1].splitlines():
        done = place.command(line)
        assert done.returncode == 0, done.stdout + done.stderr
    (kept,) = (place.folder / "baselines" / "latency" / "files").rglob("*.onnx")
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == comparison["baseline"]["digest"]
    assert "shapes" in (place.folder / "latency.md").read_text()


def test_a_bundle_that_was_changed_stops_the_gate(place: Place) -> None:
    """The comparison refuses it by the file's name, before anything is timed."""
    changed = place.folder / "changed"
    shutil.copytree(place.folder / "runs" / "candidate" / "bundle", changed)
    (changed / "labels.txt").write_text("square\ncircle\ntriangle\n")
    done = place.command("secateur compare baselines/shapes.tar.gz changed --margin 10%")
    assert done.returncode == 2
    assert "changed: labels.txt: " in done.stderr
