"""The pages run as they stand, from the installed wheel alone: their files are written, their commands are run.

The wheel is installed into a virtual environment that sees the libraries of this one, but not this checkout. All pages
go on in one folder, as docs/README.md says, so the tests of this file run in their order.
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
from dataclasses import dataclass, field
from pathlib import Path
from sysconfig import get_path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.optional import require
from tests.pages import DOCS, ELSEWHERE, ROOT, Block, blocks, guides

#: Exit codes of a comparison that was made: the files differ, and a busy machine may leave the answer open.
COMPARED = {0, 1, 3}
#: Run by CI, not here.
SET_UP = ("make ", "pip install ")
#: The one section that needs a program beyond `make setup`; a test of its own runs it.
SIGN = "Sign"

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """An empty folder, the environment of someone who has only installed the wheel, and what commands printed there."""

    folder: Path
    environment: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)

    def command(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line as a shell does."""
        command = ["bash", "-euo", "pipefail", "-c", line]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True
        )

    def follow(self, page: list[Block]) -> None:
        """Write the files of a page and run its commands, those of a workflow too."""
        for block in page:
            if block.file:
                (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / block.file).write_text(block.text)
        for block in page:
            for line in lines_of(block):
                done = self.command(line)
                allowed = COMPARED if line.startswith("secateur compare") else {0}
                assert done.returncode in allowed, f"{line}\n{done.stdout}\n{done.stderr}"
                self.printed[line] = done.stdout


def without_numbers(word: str) -> str:
    """Return a word that is the same whatever was measured: digests and numbers are not."""
    return re.sub(r"[0-9a-f]{12,}|\d[\d.]*", "#", word)


def lines_of(block: Block) -> list[str]:
    """Return the commands that run here: of a `sh` block, or of a workflow's steps."""
    lines: list[str] = []
    if block.language == "sh":
        lines = re.sub(r"#.*", "", block.text).splitlines()
    elif block.file.startswith(".github/workflows/"):
        (job,) = YAML(typ="safe").load(block.text)["jobs"].values()
        lines = [step["run"] for step in job["steps"] if "run" in step]
    return [line.strip() for line in lines if line.strip() and not line.startswith(SET_UP)]


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


def test_every_page_is_run_and_every_block_used() -> None:
    """A block is a file, commands, what they print, or stages; so none can be forgotten by the tests below."""
    assert {page.name for page in guides()} == {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert set(ELSEWHERE) < {page.name for page in guides()}
    for page in [ROOT / "README.md", *guides()]:
        assert 2 * len(blocks(page)) == page.read_text().count("\n```") + page.read_text().startswith("```"), page
        kinds = {block.language for block in blocks(page) if not block.file}
        assert kinds <= {"sh", "text", "console", "yml", "yaml"}, page


@pytest.mark.parametrize("page", [page for page in guides() if page.name not in ELSEWHERE], ids=lambda page: page.stem)
def test_page(place: Place, page: Path) -> None:
    """Its commands end well, and each line of output that it shows begins with a word that they print.

    Whether a comma follows may depend on what was fastest.
    """
    signing = blocks(page, SIGN) if f"\n## {SIGN}\n" in page.read_text() else []
    ran = [block for block in blocks(page) if block not in signing]
    place.follow(ran)
    lines = [line for block in ran if block.language == "text" for line in block.text.splitlines() if line]
    shown = [line.split()[0].rstrip(",") for line in lines]
    printed = [word.rstrip(",") for word in " ".join(place.printed.values()).split()]
    assert set(map(without_numbers, shown)) <= set(map(without_numbers, printed))


def test_signing(place: Place) -> None:
    """Minisign signs a bundle, and the public key verifies it."""
    require("minisign")
    if not (place.folder / "runs/shapes/run.json").exists():  # run alone, as `make untried` does
        place.follow(blocks(DOCS / "your-model.md"))
    place.follow(blocks(DOCS / "ship.md", SIGN))


def test_commands_of_the_readme(place: Place) -> None:
    """They go on in the same folder; `make demo` and `make test` are for CI."""
    before = len(place.printed)
    place.follow(blocks(ROOT / "README.md"))
    assert len(place.printed) >= before + 1
    assert "verified" in place.printed["secateur verify runs/shapes/bundle.tar.gz"]


def test_results_of_own_network_and_images(place: Place) -> None:
    """From an empty folder to a bundle that classifies an image, by the installed wheel."""
    where = place.command("python -c 'import pipeline; print(pipeline.__file__)'").stdout
    assert where.startswith(str(Path(place.environment["PATH"].split(os.pathsep)[0]).parent))
    rows = {row["label"]: row for row in report(place, "shapes")["rows"]}
    assert rows["quantize"]["validation"]["accuracy"] > 0.6
    assert rows["quantize"]["size_bytes"] < 0.2 * rows["original"]["size_bytes"]
    assert rows["prune"]["macs"] < 0.5 * rows["original"]["macs"]
    answer = place.printed["python runs/shapes/bundle/infer.py images/circle/000.png"]
    assert re.search("circle|square|triangle", answer)


def test_results_of_own_arrays(place: Place) -> None:
    """Arrays of a data file, whose input is named: nothing is left to be said of them."""
    data = report(place, "arrays")["data"]
    assert (data["name"], data["train"] + data["validation"] + data["test"]) == ("packed shapes", 204)
    assert "notes" not in data


def test_results_from_python(place: Place) -> None:
    """All stages come from the store, and the bundle is the same to the byte."""
    printed = place.printed["python shapes.py"]
    before, now = report(place, "shapes"), report(place, "python")
    assert all(row["cached"] for row in now["rows"])
    assert now["bundle"]["digest"] == before["bundle"]["digest"]
    assert now["bundle"]["digest"] in printed
    assert "passed" in printed
    assert all(row["label"] in printed for row in now["rows"])


def test_results_of_the_gate(place: Place) -> None:
    """The workflow compared equal bundles; the gate accepted one and measured it again."""
    comparison = json.loads((place.folder / "runs/compare/shapes--candidate/comparison.json").read_text())
    assert comparison["baseline"]["label"] == "baselines/shapes.tar.gz"
    assert comparison["baseline"]["digest"] == comparison["candidate"]["digest"]
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
