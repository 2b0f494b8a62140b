"""Commands that only look load no heavy library."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.project import Project

HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "onnxsim", "onnxscript"}
PROBE = """
import sys
sys.argv = ["secateur", *sys.argv[1:]]
import typer
from pipeline.cli import app
try:
    app()
except SystemExit as stop:
    code = stop.code
print("LOADED", code, *sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["validate", "toy.yaml"], ["plan", "toy.yaml"], ["schema"], ["recipes", "list"]],
    ids=" ".join,
)
def test_no_heavy_library_is_loaded(project: Project, arguments: list[str]) -> None:
    """Neither torch nor a runtime is in sys.modules afterwards, and the command succeeded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stderr.split("LOADED")[1].split()
    assert words[0] in {"0", "None"}
    assert not HEAVY & set(words[1:])
