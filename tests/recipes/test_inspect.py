"""`secateur inspect` as its user runs it: text, JSON and drawing of one network, and one message for a mistake."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.project import Project


def test_text_json_and_drawing_agree(project: Project) -> None:
    """The toy's trunk couples stem and both blocks; the page is written, and the JSON has the same numbers."""
    shown = project.command("inspect", "toy.yaml", "--html", "out/toy.html")
    assert shown.returncode == 0, shown.stderr
    assert "blocks.[0-1].conv2" in shown.stdout
    assert "out/toy.html" in shown.stdout
    assert "<svg" in (project.folder / "out/toy.html").read_text()
    definition = ("model.py", "--arguments", "classes=2", "--input", "1,12,12")
    found = json.loads(project.command("inspect", *definition, "--json").stdout)
    trunk = next(group for group in found["groups"] if group["name"] == "stem")
    assert trunk["makers"] == ["stem", "blocks.0.conv2", "blocks.1.conv2"]
    assert trunk["readers"] == ["blocks.0.conv1", "blocks.1.conv1", "fc"]
    assert found["macs"] == 144 * 9 * 16 * (1 + 4 * 32) + 2 * 16


def test_mistake_is_one_message(project: Project) -> None:
    """Exit code 2, nothing on standard output, no traceback."""
    wrong = project.command("inspect", "model.py", "--input", "3,12,12")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: model.py with input 3x12x12")
    assert "Traceback" not in wrong.stderr
