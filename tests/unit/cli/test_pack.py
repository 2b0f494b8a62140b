"""The commands pack and unpack, and the same from Python: the same bytes, or one message with exit code 2."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from pipeline import api
from pipeline.cli import app
from pipeline.core.errors import InputError
from pipeline.results.packing import PackedSizes
from tests.unit.bundle.small_content import content, network

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a finished run with an ONNX file and an IR."""
    made = content(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(made.report.model_dump_json())
    return tmp_path / "run"


def called(*arguments: object) -> tuple[int, str, str]:
    """Return exit code and output of a command; an error of the program itself is raised."""
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if done.exception and not isinstance(done.exception, SystemExit | InputError):
        raise done.exception
    if isinstance(done.exception, InputError):
        return 2, "", str(done.exception)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["03-export/model.onnx", "04-export/model.xml", "03-export"])
def test_there_and_back(run: Path, tmp_path: Path, name: str) -> None:
    """A file, an IR of two files, and the folder of a stage."""
    source = run / "stages" / name
    code, out, _ = called("pack", source, "-o", tmp_path / "x.packed", "--json")
    assert code == 0
    found = PackedSizes.model_validate_json(out)
    assert found.packed == (tmp_path / "x.packed").stat().st_size == sum(found.parts.values())
    code, out, _ = called("unpack", tmp_path / "x.packed", "-o", tmp_path / "new", "--json")
    assert {file: (tmp_path / "new" / file).stat().st_size for file in found.files} == found.files
    assert [*json.loads(out)] == [str(tmp_path / "new" / file) for file in found.files]
    for file in found.files:
        folder = source if source.is_dir() else source.parent
        assert (tmp_path / "new" / file).read_bytes() == (folder / file).read_bytes()
    assert called("unpack", tmp_path / "x.packed", "-o", tmp_path / "new")[0] == 0


def test_a_run(run: Path, tmp_path: Path) -> None:
    """The file that its target's runtime reads, here and from Python."""
    code, out, _ = called("pack", run, "-o", tmp_path / "x.packed")
    assert code == 0
    assert "model.onnx" in out
    sizes = api.pack(run, tmp_path / "y.packed")
    assert (tmp_path / "x.packed").read_bytes() == (tmp_path / "y.packed").read_bytes()
    assert sizes.in_memory == sum(tensor.raw for tensor in sizes.tensors)
    assert api.unpack(tmp_path / "y.packed") == (tmp_path / "model.onnx",)
    assert (tmp_path / "model.onnx").read_bytes() == (run / "stages/03-export/model.onnx").read_bytes()


def test_codes_can_be_chosen(run: Path, tmp_path: Path) -> None:
    """A name that is none is told with those that there are."""
    file = run / "stages/03-export/model.onnx"
    sizes = api.pack(file, tmp_path / "x.packed", codes=["huffman"])
    assert {tensor.code for tensor in sizes.tensors} <= {"raw", "general", "fixed", "huffman"}
    code, _, err = called("pack", file, "-o", tmp_path / "x", "--code", "zip")
    assert (code, "allowed: bitmap, relative, huffman, range" in err) == (2, True)


def test_weights_in_another_file(tmp_path: Path) -> None:
    """They are packed too; missing, cut, and elsewhere they are refused with the tensor's name."""
    model, file = network(1, 1), tmp_path / "model.onnx"
    weights = np.where(np.arange(4096) % 9 == 0, np.arange(4096), 0).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "large"))
    onnx.save(model, file, save_as_external_data=True, location="w.bin", size_threshold=1000)
    sizes = api.pack(file, tmp_path / "x.packed")
    assert sizes.files["w.bin"] == (tmp_path / "w.bin").stat().st_size
    assert "large" in {tensor.name for tensor in sizes.tensors}
    api.unpack(tmp_path / "x.packed", tmp_path / "new")
    assert (tmp_path / "new" / "w.bin").read_bytes() == (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(b"short")
    code, _, err = called("pack", file, "-o", tmp_path / "y")
    assert (code, "w.bin is cut: tensor 'large' of" in err) == (2, True)
    (tmp_path / "w.bin").unlink()
    code, _, err = called("pack", file, "-o", tmp_path / "y")
    assert (code, "w.bin does not exist; expected the weights of" in err) == (2, True)
    outside = onnx.load(file, load_external_data=False)
    next(iter(outside.graph.initializer[-1].external_data)).value = "../w.bin"
    file.write_bytes(outside.SerializeToString())
    code, _, err = called("pack", file, "-o", tmp_path / "y")
    assert (code, "must lie beside it" in err) == (2, True)


def test_what_cannot_be_packed(run: Path, tmp_path: Path) -> None:
    """Another file, none, a damaged one, an IR without its weights, a run that is not finished."""
    (tmp_path / "no.txt").write_text("x")
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 50)
    (tmp_path / "bad.xml").write_text("<html>")
    weights = run / "stages/04-export/model.bin"
    for size in (weights.stat().st_size - 1, 1 << 28):
        os.truncate(weights, size)
        code, _, err = called("pack", weights.with_suffix(".xml"), "-o", tmp_path / "x.packed")
        assert (code, f"model.bin has {size:,} bytes" in err) == (2, True)
    weights.unlink()
    for source, said in {
        tmp_path / "no.txt": "expected an exported network",
        tmp_path / "none.onnx": "does not exist",
        tmp_path / "bad.onnx": "is not a valid ONNX model",
        tmp_path / "bad.xml": "it is no IR",
        run / "stages/04-export/model.xml": "model.bin does not exist",
    }.items():
        code, _, err = called("pack", source, "-o", tmp_path / "x.packed")
        assert (code, said in err) == (2, True), (source, err)
    text = (run / "run.json").read_text().replace('"status":"finished"', '"status":"failed"')
    (run / "run.json").write_text(text)
    code, _, err = called("pack", run, "-o", tmp_path / "x.packed")
    assert (code, "expected a finished one" in err) == (2, True)
    assert not (tmp_path / "x.packed").exists()


def test_what_cannot_be_unpacked(run: Path, tmp_path: Path) -> None:
    """Damage is named with the file; nothing is written, and no other file is replaced."""
    packed = tmp_path / "x.packed"
    api.pack(run, packed)
    whole = packed.read_bytes()
    for content_, said in {
        whole[:-7]: "x.packed: it is cut",
        whole[:-7] + b"\1\2\3\4\5\6\7": "x.packed: it was changed",
        whole[:7] + b"\x09" + whole[8:]: "x.packed: it is of format 9, this program reads 1",
        b"PK\3\4": "x.packed: it is not a packed network",
    }.items():
        packed.write_bytes(content_)
        code, _, err = called("unpack", packed, "-o", tmp_path / "new")
        assert (code, said in err) == (2, True), err
    assert not (tmp_path / "new").exists()
    packed.write_bytes(whole)
    (tmp_path / "model.onnx").write_bytes(b"mine")
    code, _, err = called("unpack", packed)
    assert (code, "is there already, and is something else" in err) == (2, True)
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"


def test_two_files_are_written_both_or_none(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends the command between them leaves none under its name, and the next one writes both."""
    source, new = run / "stages/04-export/model.xml", tmp_path / "new"
    assert called("pack", source, "-o", tmp_path / "x.packed")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: 0 if not [*new.glob(".*")][1:] else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            called("unpack", tmp_path / "x.packed", "-o", new)
    assert not [*new.iterdir()]
    assert called("unpack", tmp_path / "x.packed", "-o", new)[0] == 0
    assert {path.name: path.read_bytes() for path in new.iterdir()} == {
        name: (source.parent / name).read_bytes() for name in ("model.xml", "model.bin")
    }
