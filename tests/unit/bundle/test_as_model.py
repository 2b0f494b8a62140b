"""Bundles in place of exported files: what they stand for, what they are called, and refusals that name the file."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipeline import cli
from pipeline.bundle.archive import write_archive
from pipeline.bundle.as_model import ExportedFiles, is_bundle, short_name
from pipeline.bundle.on_device.verify import REQUIRED
from pipeline.core.errors import InputError
from pipeline.core.stage import SilentProgress
from pipeline.latency.baselines import BaselineStore
from pipeline.latency.gate import Gate
from pipeline.latency.gate_config import gated_models, read_config
from pipeline.latency.networks import write_one_operator, write_small_cnn
from tests.unit.latency.gate_fixtures import Prepared

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.core.stage import Runtime


def seal(folder: Path, **main: str) -> Path:
    """Write manifest.json and SHA256SUMS over the files of a folder, as they are in a bundle."""
    own = {"manifest.json", "SHA256SUMS"}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name not in own]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    files = {name: {"sha256": digests[name], "bytes": (folder / name).stat().st_size} for name in names}
    content = json.dumps({"schema_version": 1, "files": files, "main": main, "runtime": min(main)}).encode()
    (folder / "manifest.json").write_bytes(content)
    digests["manifest.json"] = hashlib.sha256(content).hexdigest()
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return the folder of a bundle whose model can be run, as far as commands that measure look at one."""
    folder = tmp_path / "work" / "bundle"
    for name in REQUIRED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    write_one_operator(folder / "model" / "model.onnx")
    return seal(folder, onnxruntime="model/model.onnx")


@pytest.fixture
def archive(bundle: Path, tmp_path: Path) -> Path:
    """Return the same bundle as an archive."""
    write_archive(bundle, tmp_path / "main.tar.gz")
    return tmp_path / "main.tar.gz"


def test_a_bundle_stands_for_its_model(bundle: Path, archive: Path) -> None:
    """Of the asked runtime or the bundle's own; an archive is unpacked once, and removed at the end."""
    expected = (bundle / "model" / "model.onnx").read_bytes()
    with ExportedFiles() as opened:
        assert opened(bundle, "onnxruntime") == opened(bundle) == bundle / "model" / "model.onnx"
        file = opened(archive, "onnxruntime")
        assert file.read_bytes() == expected
        assert opened(archive) == file
    assert not file.exists()
    assert bundle.is_dir()


def test_an_exported_file_stands_for_itself(bundle: Path, tmp_path: Path) -> None:
    """Files, folders of networks and paths that lead nowhere are left to whoever reads them."""
    with ExportedFiles() as opened:
        for path in (bundle / "model" / "model.onnx", bundle / "model", tmp_path / "nowhere.onnx", tmp_path):
            assert not is_bundle(path)
            assert opened(path, "openvino") == path


def test_short_names(bundle: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result is named by what tells bundles apart, and a file as it is called."""
    (bundle / "model" / "a.b.onnx").write_text("")
    names = (bundle, archive, bundle.parent / "bundle.tar.gz", bundle / "model" / "a.b.onnx")
    assert [short_name(path) for path in names] == ["work", "main", "work", "a.b"]
    monkeypatch.chdir(bundle.parent)
    assert short_name(bundle.relative_to(bundle.parent)) == "work"


@pytest.mark.parametrize(
    ("change", "runtime", "expected"),
    [
        (lambda it: (it / "model" / "model.onnx").write_bytes(b"x"), "onnxruntime", "model/model.onnx: it has 1 bytes"),
        (lambda it: (it / "infer.py").write_text("INFER.py"), "onnxruntime", "infer.py: it was changed"),
        (lambda it: (it / "more.txt").write_text(""), "onnxruntime", "more.txt: it is a file that manifest.json does"),
        (lambda it: (it / "SHA256SUMS").unlink(), "onnxruntime", "SHA256SUMS: it is missing"),
        (lambda _: None, "openvino", "found no file for openvino in this bundle, allowed: onnxruntime"),
        (lambda _: None, "torch", "found no file for torch in this bundle, allowed: onnxruntime"),
    ],
    ids=["size", "content", "another file", "no sums", "another runtime", "torch"],
)
def test_a_bundle_that_cannot_be_used_is_refused(bundle: Path, change: object, runtime: Runtime, expected: str) -> None:
    """Its own checks decide, and the message names bundle and file."""
    change(bundle)  # type: ignore[operator]
    with ExportedFiles() as opened, pytest.raises(InputError) as caught:
        opened(bundle, runtime)
    assert str(caught.value).startswith(f"{bundle}: {expected}")


def test_an_archive_that_cannot_be_used_is_refused(archive: Path, tmp_path: Path) -> None:
    """One that is cut, that is none, or that is not there."""
    (tmp_path / "text.tar.gz").write_text("text")
    os.truncate(archive, archive.stat().st_size // 2)
    for path in (archive, tmp_path / "text.tar.gz", tmp_path / "nowhere.tar.gz"):
        with ExportedFiles() as opened, pytest.raises(InputError, match=path.name):
            opened(path)


@pytest.mark.slow
def test_compare_measures_bundles(bundle: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of an archive and a folder calls them as they were given, with the hash of the model."""
    monkeypatch.chdir(tmp_path)
    options = ["--budget", "4s", "--margin", "500%", "--no-roofline", "--json"]
    done = CliRunner().invoke(cli.app, ["compare", "main.tar.gz", "work/bundle", *options])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "runs" / "compare" / "main--work" / "comparison.json").read_text())
    assert [found[side]["label"] for side in ("baseline", "candidate")] == ["main.tar.gz", "work/bundle"]
    digest = hashlib.sha256((bundle / "model" / "model.onnx").read_bytes()).hexdigest()
    assert found["baseline"]["digest"] == found["candidate"]["digest"] == digest
    assert found["name"] == "work"
    done = CliRunner().invoke(cli.app, ["bench", str(archive), str(bundle), "--budget", "1s", "--json"])
    assert [each["label"] for each in json.loads(done.stdout)["subjects"]] == [str(archive), str(bundle)]


def test_commands_refuse_a_damaged_bundle(bundle: Path) -> None:
    """All of them, with exit code 2."""
    (bundle / "labels.txt").write_text("other")
    for command in (["compare", str(bundle), str(bundle)], ["bench", str(bundle)], ["inspect", str(bundle)]):
        done = CliRunner().invoke(cli.app, command)
        assert isinstance(done.exception, InputError)
        assert done.exception.exit_code == 2
        assert "labels.txt: it has 5 bytes" in str(done.exception)


def test_inspect_looks_into_a_bundle(tmp_path: Path, bundle: Path) -> None:
    """At its model."""
    write_small_cnn(bundle / "model" / "model.onnx")
    seal(bundle, onnxruntime="model/model.onnx")
    write_archive(bundle, tmp_path / "cnn.tar.gz")
    done = CliRunner().invoke(
        cli.app, ["inspect", str(tmp_path / "cnn.tar.gz"), "--json", "--runs", "1", "--images", "1"]
    )
    assert done.exit_code == 0, done.output
    assert {"Conv", "MatMul"} <= {layer["operator"] for layer in json.loads(done.stdout)["layers"]}


def test_a_gate_keeps_the_model_of_a_bundle(bundle: Path, archive: Path, tmp_path: Path) -> None:
    """The baseline is the model, so that a bundle with other samples and the same model is the same candidate."""
    tables = '[[model]]\nname = "a"\nfile = "main.tar.gz"\n[[model]]\nname = "b"\nfile = "work/bundle"\n'
    (tmp_path / "latency.toml").write_text(tables)
    store = BaselineStore(tmp_path / "baselines")
    models = list(gated_models(read_config(tmp_path / "latency.toml"), tmp_path))
    prepared = Prepared({"a": [("PASS", 1.0)] * 2, "b": [("PASS", 1.0)]})
    with ExportedFiles() as opened:
        options = {"store": store, "config": "latency.toml", "results": tmp_path / "results", "opened": opened}
        assert Gate(**options, accept="first").run(models, SilentProgress(), prepared).exit_code == 0  # type: ignore[arg-type]
        kept = {name: store.file(each) for name, each in store.baselines().items()}
        assert kept["a"].read_bytes() == kept["b"].read_bytes() == (bundle / "model" / "model.onnx").read_bytes()
        (bundle / "labels.txt").write_text("other")
        found = Gate(**options).run(models, SilentProgress(), prepared)  # type: ignore[arg-type]
    assert [each.exit_code for each in found.models] == [0, 2]
    assert found.models[0].file == str(archive)
    assert found.models[1].failure
    assert "labels.txt" in found.models[1].failure.text
    assert [question.labels for _, question, _ in prepared.asked] == [
        (str(archive), str(archive)),
        (str(bundle), str(bundle)),
        (str(kept["a"]), str(archive)),
    ]
