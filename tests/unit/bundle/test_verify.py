"""verify.py as a person or a program uses it: what it prints, its exit codes, notes about another machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from pipeline.bundle.on_device.verify import Verification
from pipeline.cli import app
from tests.unit.bundle.tampering import expected, flip, manifest, model, rewrite, scaled

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

KEYS = set(Verification.__dataclass_fields__)


def on_device(bundle: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start the bundle's own verify.py, in its folder."""
    command = [sys.executable, "verify.py", *options]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=bundle, env=variables, check=False, capture_output=True, text=True, timeout=120)


def read(bundle: Path, *options: str) -> dict[str, Any]:
    """Return what `secateur verify --json` says."""
    done = CliRunner().invoke(app, ["verify", str(bundle), "--json", *options])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def without(package: str, folder: Path) -> dict[str, str]:
    """Return an environment in which a package cannot be imported."""
    (folder / "lacking" / package).mkdir(parents=True)
    (folder / "lacking" / package / "__init__.py").write_text(f"raise ImportError('No module named {package}')\n")
    return {"PYTHONPATH": str(folder / "lacking")}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_both_ways_say_the_same(made: Path, runtime: str) -> None:
    """In each runtime: the checks by name, the outputs of every sample, and how far they are from those expected."""
    trusted = read(made / "bundle", "--runtime", runtime, "--threads", "2")
    alone = json.loads(on_device(made / "bundle", "--runtime", runtime, "--json").stdout)
    for found in (trusted, alone):
        assert set(found) == KEYS
        assert found["verified"] is True
        assert found["error"] == ""
        assert [check["name"] for check in found["checks"]] == ["structure", "checksums", "digest", "self-test"]
        assert found["runtime"] == runtime
        assert len(found["outputs"]) == len(found["differences"]) == 4
        assert 0 <= found["max_abs"] < 1e-3
    assert trusted["digest"] == alone["digest"]
    assert trusted["outputs"].keys() == alone["outputs"].keys()


def test_json_of_a_refusal(good: Path) -> None:
    """It says how far it came, and the error; the exit code is that of the text."""
    flip("labels.txt")(good)
    done = on_device(good, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["verified"], found["digest"]) == (2, False, "")
    assert [check["name"] for check in found["checks"]] == ["structure"]
    assert found["error"].startswith("labels.txt: ")
    assert found == read(good)


def test_json_of_wrong_outputs(good: Path) -> None:
    """Outputs and differences are there, for someone to look at."""
    model(scaled(1.01))(good)
    found = read(good)
    assert (found["verified"], len(found["outputs"]), found["max_abs"] > 0) == (False, 4, True)
    assert CliRunner().invoke(app, ["verify", str(good)]).exit_code == 6


def test_exact_means_equal(good: Path) -> None:
    """Where every bit has to be the same, the tolerance does not count."""

    def nudged(content: dict[str, Any]) -> None:
        content["samples"][0]["outputs"]["onnxruntime"][0] += 1e-6

    expected(nudged)(good)
    assert CliRunner().invoke(app, ["verify", str(good)]).exit_code == 0
    expected(lambda content: content["exact"].update(onnxruntime=True))(good)
    done = CliRunner().invoke(app, ["verify", str(good)])
    assert done.exit_code == 6
    assert "allowed: 0" in done.stderr


@pytest.mark.parametrize("package", ["numpy", "onnxruntime"])
def test_missing_package(made: Path, tmp_path: Path, package: str) -> None:
    """Exit code 5 with the line that installs it; the files were checked before."""
    done = on_device(made / "bundle", **without(package, tmp_path))
    assert done.returncode == 5
    assert package in done.stderr
    assert "pip install -r requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert "checksums  ok" in done.stdout


def test_another_runtime_where_one_is_missing(made: Path, tmp_path: Path) -> None:
    """The other one works without it."""
    done = on_device(made / "bundle", "--runtime", "openvino", **without("onnxruntime", tmp_path))
    assert done.returncode == 0, done.stderr


def test_runtime_that_has_no_file(good: Path) -> None:
    """It is refused with those that have one."""
    for name in ("model.xml", "model.bin"):
        (good / "model" / name).unlink()
    manifest(lambda content: content["main"].pop("openvino"))(good)
    rewrite(good)
    done = on_device(good, "--runtime", "openvino")
    assert (done.returncode, "allowed: onnxruntime" in done.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [("--threads", "0"), ("--runtime", "torch"), ("--unknown",)])
def test_arguments(made: Path, arguments: tuple[str, ...]) -> None:
    """Wrong ones are told in one line, with exit code 2."""
    done = on_device(made / "bundle", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert CliRunner().invoke(app, ["verify", str(made / "bundle"), *arguments]).exit_code == 2


def test_another_machine_is_a_note(good: Path) -> None:
    """Processor, architecture, instructions and version of the runtime are named, and nothing fails for them."""

    def elsewhere(content: dict[str, Any]) -> None:
        content["machine"] = {"cpu_model": "Cortex-A72", "architecture": "aarch64", "isa": ["asimd"]}
        content["versions"]["onnxruntime"] = "1.0"

    manifest(elsewhere)(good)
    rewrite(good)
    found = read(good)
    assert found["verified"] is True
    notes = "\n".join(found["notes"])
    for text in ("'aarch64'", "'Cortex-A72'", "lacks 'asimd'", "made with '1.0'"):
        assert text in notes
    assert "note" in on_device(good).stdout


@pytest.mark.parametrize("machine", [{}, {"cpu_model": None, "isa": None}, {"isa": [1, None]}])
def test_machines_that_are_not_known(good: Path, machine: dict[str, Any]) -> None:
    """A fingerprint with gaps does not stop anything."""
    manifest(lambda content: content.update(machine=machine, versions={}))(good)
    rewrite(good)
    assert read(good)["verified"] is True
    assert on_device(good).returncode == 0


def test_bundle_elsewhere(made: Path, tmp_path: Path) -> None:
    """A verify.py that did not come with a bundle checks it by --bundle, with the infer.py beside itself."""
    for name in ("infer.py", "self_test.py", "verify.py"):
        shutil.copy(made / "bundle" / name, tmp_path / name)
    done = on_device(tmp_path, "--bundle", str(made / "bundle"))
    assert (done.returncode, done.stderr) == (0, "")
    assert on_device(tmp_path).returncode == 2


@pytest.mark.parametrize("field", ["accuracy", "latency", "lineage", "licences", "seed", "data"])
def test_the_program_checks_every_field_of_the_manifest(good: Path, field: str) -> None:
    """What verification itself does not need is checked by the program, even where all checksums fit."""
    manifest(lambda content: content.update({field: "nonsense"}))(good)
    rewrite(good)
    done = CliRunner().invoke(app, ["verify", str(good)])
    assert done.exit_code == 2
    assert f"manifest.json: {field}" in done.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_without_numbers_is_refused_everywhere(good: Path, value: float) -> None:
    """Verify finds wrong outputs and writes null for them; infer.py names no class."""

    def poison(network: onnx.ModelProto) -> None:
        bias = next(each for each in network.graph.initializer if list(each.dims) == [3])
        bias.CopyFrom(numpy_helper.from_array(np.full(3, value, np.float32), bias.name))

    model(poison)(good)
    done = on_device(good, "--json")
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (done.returncode, found["verified"]) == (6, False)
    assert set(found["outputs"]["samples/0.png"]) == {None}
    assert json.loads(CliRunner().invoke(app, ["verify", str(good), "--json"]).stdout)["outputs"] == found["outputs"]
    said = subprocess.run(
        [sys.executable, "infer.py", "samples/0.png", "--json"], cwd=good, check=False, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (2, "")
    assert "not finite" in said.stderr


def test_a_verdict_that_nobody_reads(made: Path, tmp_path: Path) -> None:
    """As behind `| head`: no traceback, and a refusal keeps its code."""
    reader, writer = os.pipe()
    os.close(reader)
    shutil.copytree(made / "bundle", tmp_path / "bundle")
    flip("labels.txt")(tmp_path / "bundle")
    for folder, code, said in ((made / "bundle", 141, ""), (tmp_path / "bundle", 2, "error: ")):
        command = [sys.executable, "verify.py"]
        ended = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
        assert ended.returncode == code
        assert ended.stderr.startswith(said)
        assert bool(ended.stderr) == bool(said)
    os.close(writer)
