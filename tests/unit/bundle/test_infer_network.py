"""infer.py runs the network in a bundle's folder, from another program and from the command line."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle.on_device import infer
from pipeline.bundle.preprocessing import write_preprocessing
from pipeline.measure.runtimes import open_session
from tests.unit.bundle.small_content import CLASSES, SIDE, content, dataset

if TYPE_CHECKING:
    from pipeline.bundle.content import Content

INFER = Path(infer.__file__)


def unpacked(made: Content, folder: Path) -> Path:
    """Write what infer.py needs of a bundle."""
    (folder / "model").mkdir(parents=True)
    for file in made.files.values():
        for part in file.parent.glob("model.*"):
            shutil.copy(part, folder / "model")
    write_preprocessing(made, folder)
    shutil.copy(INFER, folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network for both runtimes, and two images."""
    base = tmp_path_factory.mktemp("bundle")
    folder = unpacked(content(base / "run"), base / "bundle")
    for name, pixels in zip(("one.png", "two.png"), dataset().test.images, strict=False):
        Image.fromarray(pixels[0]).save(base / name)
    return folder


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the copy in the folder as a person would, beside the images."""
    command = [sys.executable, "-I", "-B", str(folder / "infer.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_outputs_are_those_of_the_measured_session(bundle: Path, runtime: Any) -> None:  # noqa: ANN401
    """What ships computes, bit by bit, what accuracy was taken on."""
    file = {"onnxruntime": "model.onnx", "openvino": "model.xml"}[runtime]
    inputs = dataset().normalisation(dataset().test.images[:1])
    session = open_session(runtime, bundle / "model" / file, threads=1, batch=1)
    network = infer.Network(bundle, runtime)
    assert network.runtime == runtime
    assert session.version.startswith(network.version)
    assert np.array_equal(network.logits(inputs), session.run(inputs)[0])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 4])
def test_any_number_of_images(tmp_path: Path, runtime: str, batch: int) -> None:
    """A file of fixed batch takes any number of images: what is over is filled up, and left out of the answer."""
    folder = unpacked(content(tmp_path / "run", batch=batch), tmp_path / "bundle")
    inputs = dataset().normalisation(dataset().test.images[:10])
    network = infer.Network(folder, runtime)
    together = network.logits(inputs)
    assert together.shape == (10, len(CLASSES))
    assert np.allclose(together, np.concatenate([network.logits(inputs[[index]]) for index in range(10)]), atol=1e-5)


def test_openvino_reads_the_onnx_file_where_it_has_none_of_its_own(tmp_path: Path) -> None:
    """A bundle for OpenVINO may hold an ONNX file alone."""
    folder = unpacked(content(tmp_path / "run", runtimes=("onnxruntime",)), tmp_path / "bundle")
    inputs = dataset().normalisation(dataset().test.images[:2])
    found = [infer.Network(folder, runtime).logits(inputs) for runtime in ("onnxruntime", "openvino")]
    assert np.allclose(*found, atol=1e-5)


def test_a_runtime_is_chosen_once_and_clearly(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its file or its package a runtime is refused, with the file of requirements that brings it."""
    shutil.copytree(bundle, tmp_path / "less")
    (tmp_path / "less" / "model" / "model.onnx").unlink()
    with pytest.raises(infer.Rejected, match="has no file for the runtime onnxruntime"):
        infer.Network(tmp_path / "less")
    (tmp_path / "less" / "model" / "model.onnx").write_bytes(b"broken")
    with pytest.raises(infer.Rejected, match=r"model\.onnx: onnxruntime cannot read it \(.*[Pp]rotobuf"):
        infer.Network(tmp_path / "less")
    for runtime, file in (("onnxruntime", "requirements.txt"), ("openvino", "requirements-openvino.txt")):
        monkeypatch.setitem(sys.modules, runtime, None)
        with pytest.raises(infer.RuntimeMissing, match=rf"pip install -r {file}") as missing:
            infer.Network(bundle, runtime)
        assert missing.value.exit_code == 5


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("Exception from core.cpp:117:\n\n  object is not initialized\n"),
            "core.cpp:117: object is not init",
        ),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), "xxx..."),
    ],
)
def test_what_another_library_says_is_one_line(error: Exception, says: str) -> None:
    """All of it up to a limit: some say on the last of many lines what it is."""
    told = infer.reason(error)
    assert says in told
    assert "\n" not in told
    assert len(told) < 310


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_nothing_is_told_to_vendors(bundle: Path, runtime: str) -> None:
    """Usage data of the runtimes stays at home: OpenVINO's sender is not loaded, onnxruntime's is switched off."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import infer; infer.Network(sys.argv[1], sys.argv[2])\n"
        "sender = [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "print(sender, sys.argv[2] in sys.modules, os.environ.get('ORT_DISABLE_TELEMETRY'))"
    )
    command = [sys.executable, "-B", "-c", code, str(bundle), runtime]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout.strip()
    assert found == f"[] True {'None' if runtime == 'openvino' else '1'}"


def test_inputs_of_another_shape(bundle: Path) -> None:
    """Images of another size are refused before a runtime sees them."""
    with pytest.raises(infer.Rejected, match=rf"\[1, 1, 5, 5\], allowed: \['N', 1, {SIDE}, {SIDE}\]"):
        infer.Network(bundle).logits(np.zeros((1, 1, 5, 5), np.float32))


def test_the_answer_for_a_person(bundle: Path) -> None:
    """One line for each image: the likeliest class with its probability, or several."""
    done = run(bundle, "one.png", "two.png")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["one.png", "two.png"]
    assert all(line.split()[1] in CLASSES and line.endswith(")") for line in lines)
    assert run(bundle, "one.png", "--top", 3, "--runtime", "openvino", "--threads", 2).stdout.count(",") == 2


def test_the_answer_for_a_program(bundle: Path) -> None:
    """JSON has the same classes, the likeliest first; the probabilities add up to one."""
    done = run(bundle, "one.png", "--json", "--top", 9)
    found = json.loads(done.stdout)
    assert found["runtime"] == "onnxruntime"
    assert found["results"][0]["image"] == "one.png"
    shares = [each["probability"] for each in found["results"][0]["classes"]]
    assert len(shares) == len(CLASSES)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    inputs = dataset().normalisation(dataset().test.images[:1])
    assert shares == pytest.approx(sorted(infer.softmax(infer.Network(bundle).logits(inputs))[0], reverse=True))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing.png",), "infer.py: nothing.png cannot be read: No such file or directory"),
        (("bundle",), "infer.py: bundle cannot be read: Is a directory"),
        (("bundle/labels.txt",), "infer.py: bundle/labels.txt cannot be read as an image"),
        (("one.png", "--top", "0"), "--threads and --top must be 1 or more"),
        (("one.png", "--runtime", "torch"), "invalid choice: 'torch'"),
    ],
)
def test_bad_input_is_one_line(bundle: Path, arguments: tuple[str, ...], told: str) -> None:
    """Exit code 2 and the reason; never a traceback, and no answer for the other images."""
    done = run(bundle, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_bundle(tmp_path: Path, bundle: Path) -> None:
    """Without preprocess.json, or with that of another time, nothing is guessed."""
    shutil.copy(INFER, tmp_path)
    done = run(tmp_path, bundle.parent / "one.png")
    assert done.returncode == 2
    assert "preprocess.json cannot be read" in done.stderr
    for text in ('{"schema_version": 2}', "[]"):
        (tmp_path / "preprocess.json").write_text(text)
        assert "is not of schema version 1" in run(tmp_path, bundle.parent / "one.png").stderr


def test_images_of_another_size_where_nothing_is_resized(tmp_path: Path) -> None:
    """The size that the network takes is said."""
    made = content(tmp_path / "run", replace(dataset(), preprocessing=None), runtimes=("onnxruntime",))
    folder = unpacked(made, tmp_path / "bundle")
    Image.new("L", (30, 20)).save(tmp_path / "large.png")
    done = run(folder, "large.png")
    assert done.returncode == 2
    assert f"large.png has 30 x 20 pixels, allowed: {SIDE} x {SIDE}" in done.stderr


def test_it_is_written_for_python_39() -> None:
    """The oldest Python that runtimes and boards still come with compiles the code."""
    tree = ast.parse(INFER.read_text(), feature_version=(3, 9))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "strict" in ast.dump(node)]


def test_answers_that_nobody_reads(bundle: Path) -> None:
    """As behind `| head`: 141, as of SIGPIPE, and no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-I", "-B", str(bundle / "infer.py"), str(bundle.parent / "one.png")]
    ended = subprocess.run(command, env={}, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")
