"""Exit codes and messages of compare and gate, with comparisons that were prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.core import interruption
from pipeline.core.errors import (
    DeviceError,
    IncomparableError,
    InputError,
    OutputsError,
    ResourceError,
    SecateurError,
    StageError,
)
from pipeline.core.runtimes import FORMS
from pipeline.measure.devices.registry import registry_file
from tests.unit.latency.gate_fixtures import Prepared, comparison

if TYPE_CHECKING:
    from pipeline.measure.subjects import Subject
    from pipeline.results.comparison import Comparison, Verdict
    from pipeline.results.measurement import Measurement


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return two files in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECATEUR_DEVICES", str(tmp_path / "devices.json"))
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_text(name)
    assert not registry_file().exists()
    return "a.onnx", "b.onnx"


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command as the shell does; return its exit code and what it said."""
    monkeypatch.setattr("sys.argv", ["secateur", *arguments])
    monkeypatch.setattr(interruption, "install", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out + said.err


@pytest.mark.parametrize(("verdict", "code"), [("PASS", 0), ("FAIL", 1), ("INCONCLUSIVE", 3), ("INCOMPARABLE", 4)])
def test_exit_code_is_the_verdicts(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, code: int
) -> None:
    """The result is written, drawn and shown whatever it is."""

    def prepared(*_: object, **__: object) -> tuple[Comparison, Measurement]:
        measurement = Prepared({}).measurement(tmp_path / "a.onnx", tmp_path / "b.onnx")
        return comparison("b", measurement, (verdict, 0.5)), measurement

    monkeypatch.setattr("pipeline.latency.compare.compare_files", prepared)
    done = CliRunner().invoke(cli.app, ["compare", *files])
    assert done.exit_code == code, done.output
    assert verdict in done.output
    assert {each.name for each in (tmp_path / "runs" / "compare" / "a--b").iterdir()} == {
        "comparison.json",
        "comparison.html",
        "comparison.md",
        "rounds.json",
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad"), 2),
        (IncomparableError("differ in threads"), 4),
        (DeviceError("gone"), 5),
        (OutputsError("wrong"), 6),
        (StageError("a runtime failed"), 2),
        (ResourceError("disk full"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_has_an_exit_code_that_no_verdict_has(
    files: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: SecateurError,
    code: int,
) -> None:
    """3 would read as INCONCLUSIVE: what only failed is 2."""

    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.latency.compare.compare_files", failing)
    found, said = run(monkeypatch, capsys, "compare", *files)
    assert found == code
    assert str(error) in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--margin", "fast"], 'found "fast", allowed: a share such as 3%'),
        (["--budget", "10"], "allowed: a positive time with its unit"),
        (["--tolerance", "-1"], "allowed: a share such as 3%"),
        (["--shape", "ids"], "allowed: INPUT=SIZES"),
        (["--shape", "ids=1,x"], "allowed: INPUT=SIZES"),
        (["--duty", "fast"], "allowed: a positive time with its unit"),
        (["--device", "nowhere"], 'no device is registered as "nowhere"'),
        (["--device", "ssh://-oProxyCommand=touch x"], "found the device"),
        (["--device", "qemu://cortex-a72"], "is emulated"),
        (["--metric", "instructions"], "does not count instructions"),
        (["--threads", "0"], "greater than or equal to 1"),
        (["--runtime", "tflite"], "'--runtime': 'tflite' is not one of"),
    ],
)
def test_bad_options_are_told(
    files: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    """What was found, and what is allowed; exit code 2 and no traceback."""
    found, said = run(monkeypatch, capsys, "compare", *files, *options)
    assert found == 2
    assert expected in " ".join(said.replace("│", " ").split())
    assert "Traceback" not in said


def test_a_missing_file_is_bad_input(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names it."""
    found, said = run(monkeypatch, capsys, "compare", files[0], "none.onnx")
    assert found == 2
    assert "none.onnx does not exist; expected an exported network" in said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.onnx"], "onnxruntime"),
        (["net.xml"], "openvino"),
        (["a.onnx", "net.xml"], "openvino"),
        (["folder"], "torch"),
        (["net.xml", "--runtime", "onnxruntime"], "net.xml: onnxruntime does not read it, allowed: openvino"),
        (["a.onnx", "folder"], "no runtime reads onnx and torch"),
        (["notes"], "notes is not a network; expected an exported network (.onnx)"),
    ],
)
@pytest.mark.usefixtures("files")
def test_the_runtime_is_one_that_reads_the_files(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    expected: str,
) -> None:
    """It is chosen by their names, unless it is asked for; what cannot be read is refused before it is measured."""
    Path("folder").mkdir()
    for name in ("net.xml", "net.bin", "notes", *(f"folder/{name}" for name in FORMS["torch"].files)):
        Path(name).write_text("nothing")

    def measured(subjects: list[Subject], *_: object, **__: object) -> None:
        raise InputError(f"measured in {subjects[0].runtime}")

    monkeypatch.setattr("pipeline.measure.bench.measure_subjects", measured)
    code, said = run(monkeypatch, capsys, "bench", *given)
    assert (code, expected in said) == (2, True), said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--accept", " "], "found an empty --accept"),
        (["--refreeze"], "found --refreeze without --accept"),
        (["--drift", "--accept", "x"], "found --drift with --accept"),
        (["--only", "b"], "found --only b, allowed: a"),
    ],
)
def test_options_of_gate_that_make_no_sense(
    files: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: str,
) -> None:
    """They are refused before anything is measured."""
    (tmp_path / "latency.toml").write_text(f'[[model]]\nname = "a"\nfile = "{files[0]}"\n')
    found, said = run(monkeypatch, capsys, "gate", "--config", "latency.toml", *options)
    assert found == 2
    assert expected in said
