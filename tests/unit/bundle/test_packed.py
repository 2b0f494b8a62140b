"""Bundles whose model files are packed: the same outputs, checked by this program and by themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from typer.testing import CliRunner

from pipeline.bundle.as_model import ExportedFiles
from pipeline.bundle.place import write_bundle
from pipeline.cli import app
from pipeline.compress.coding import pieces, unpack
from pipeline.compress.coding.pack import pack_files
from tests.unit.bundle.small_content import content
from tests.unit.bundle.small_task import TWO_INPUTS, file_task, mixed_network, task_content
from tests.unit.bundle.tampering import outside, rewrite

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN = """
import runpy, sys
sys.modules['pipeline'] = sys.modules['torch'] = None
sys.argv = {0}
sys.path.insert(0, '.')
runpy.run_path({0}[0], None, '__main__')
"""
FILE = "model/model.onnx.packed"


def alone(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a program of the bundle where this program cannot be imported, and bytecode would be written."""
    command = [sys.executable, "-c", HIDDEN.format(list(arguments))]
    return subprocess.run(command, cwd=bundle, check=False, capture_output=True, text=True, timeout=120)


def verify(bundle: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Return exit code and what `secateur verify --json` says."""
    done = CliRunner().invoke(app, ["verify", str(bundle), "--json", *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a bundle of images and one of a user's task, packed, in folders that nobody changes."""
    base = tmp_path_factory.mktemp("packed")
    task = file_task(base / "code", TWO_INPUTS, offset=0.5)
    found = {
        "images": content(base / "images", storage="packed"),
        "task": task_content(base / "task", task, mixed_network(2), samples=2, storage="packed"),
    }
    for name, each in found.items():
        write_bundle(each, (base / f"{name}-bundle", base / f"{name}.tar.gz"))
    return {name: base / f"{name}-bundle" for name in found}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["images", "task"])
def test_verified_both_ways(bundles: dict[str, Path], name: str, runtime: str) -> None:
    """With the bits of the plain file; nothing is unpacked into the folder, and no bytecode written."""
    bundle = bundles[name]
    assert sorted(file.name for file in (bundle / "model").iterdir()) == ["model.onnx.packed", "model.xml.packed"]
    for place in (bundle, bundle.with_name(f"{name}.tar.gz")):
        code, found = verify(place, "--runtime", runtime)
        assert (code, found["error"], found["notes"].count("unpack.py")) == (0, "", 0)
        assert found["max_abs"] == 0
    for _ in range(2):
        done = alone(bundle, "verify.py", "--runtime", runtime, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["max_abs"] == 0


@pytest.mark.parametrize(("name", "sample"), [("images", "*.png"), ("task", "0.npz")])
def test_inference(bundles: dict[str, Path], name: str, sample: str) -> None:
    """infer.py unpacks in memory: twice the same, and verification finds nothing new in the folder."""
    bundle = bundles[name]
    file = min((bundle / "samples").glob(sample))
    done = [alone(bundle, "infer.py", f"samples/{file.name}") for _ in range(2)]
    assert [(each.returncode, each.stderr) for each in done] == [(0, ""), (0, "")]
    assert done[0].stdout == done[1].stdout
    assert verify(bundle)[0] == 0


def test_the_file_that_it_stands_for(bundles: dict[str, Path]) -> None:
    """Where a command takes a bundle it gets the plain file, in a folder that is gone afterwards."""
    stages = bundles["images"].parent / "images" / "stages"
    with ExportedFiles() as opened:
        file = opened(bundles["images"])
        assert file == opened(bundles["images"])
        assert file.read_bytes() == (stages / "03-export/model.onnx").read_bytes()
        ir = opened(bundles["images"], "openvino")
        assert ir.with_suffix(".bin").read_bytes() == (stages / "04-export/model.bin").read_bytes()
    assert not file.exists()


def test_unpacked_by_hand(bundles: dict[str, Path], tmp_path: Path) -> None:
    """With the bundle's own unpack.py."""
    done = alone(bundles["images"], "unpack.py", FILE, "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))


def other(bundle: Path, files: dict[str, bytes]) -> None:
    """Put other files into the packed one, as somebody would who rewrites the whole bundle."""
    (bundle / FILE).write_bytes(pack_files(files, {}).content)
    rewrite(bundle)


def test_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Cut, of other files, with weights elsewhere, without its program: exit code 2 and the file's name."""
    model = unpack.unpack_files((bundles["images"] / FILE).read_bytes())["model.onnx"]
    network = onnx.load_from_string(model)
    outside(network)
    assert pieces.onnx_places(network.SerializeToString())[1]

    def cut(bundle: Path) -> None:
        (bundle / FILE).write_bytes((bundle / FILE).read_bytes()[:-3])
        rewrite(bundle)

    def without(bundle: Path) -> None:
        (bundle / "unpack.py").unlink()
        rewrite(bundle)

    cases = {
        "it is cut": cut,
        "holds 'other.onnx', expected model.onnx": lambda bundle: other(bundle, {"other.onnx": model}),
        "its weights are in other files": lambda bundle: other(bundle, {"model.onnx": network.SerializeToString()}),
        "lacks unpack.py": without,
    }
    for place, (said, change) in enumerate(cases.items()):
        shutil.copytree(bundles["images"], bundle := tmp_path / str(place))
        change(bundle)
        code, found = verify(bundle)
        assert (code, said in found["error"]) == (2, True), found["error"]
        done = alone(bundle, "verify.py")
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
