"""A real gate through the command, of a tiny network against itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from tests.unit.measure.conftest import write_onnx  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.slow
def test_accept_then_gate_then_drift(
    write_onnx: Callable[..., Path],  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First nothing is known, then the file is its own baseline; results, table and JUnit are written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_onnx("net.onnx")
    (tmp_path / "latency.toml").write_text(
        'margin = "500%"\nbudget = "20s"\n[[model]]\nname = "n"\nfile = "net.onnx"\n'
    )
    command = ["gate", "--config", "latency.toml"]
    assert CliRunner().invoke(app, command).exit_code == 2
    accepted = CliRunner().invoke(app, [*command, "--accept", "first"])
    assert accepted.exit_code == 0, accepted.output
    done = CliRunner().invoke(app, [*command, "--junit", "out/j.xml", "--markdown", "out/m.md"])
    assert done.exit_code == 0, done.output
    assert 'failures="0"' in (tmp_path / "out" / "j.xml").read_text()
    assert "| n | PASS |" in (tmp_path / "out" / "m.md").read_text()
    assert json.loads((tmp_path / "runs" / "gate" / "gate.json").read_text())["models"][0]["verdict"] == "PASS"
    assert (tmp_path / "runs" / "gate" / "n" / "comparison.json").is_file()
    assert CliRunner().invoke(app, [*command, "--drift"]).exit_code == 0
