"""Bundles of any task: made, verified both ways, run by their own programs without torch, and refused when changed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

import pipeline.tasks
from pipeline.bundle.assemble import TASK_CODE
from pipeline.bundle.on_device.task.task_code import TaskCode
from pipeline.bundle.place import write_bundle
from pipeline.cli import app
from pipeline.core.errors import InputError
from tests.unit.bundle.small_task import (
    TOKENS,
    TWO_INPUTS,
    file_task,
    mixed_network,
    task_content,
    token_network,
)
from tests.unit.bundle.tampering import rewrite

if TYPE_CHECKING:
    from collections.abc import Callable

KITS = [
    file for file in Path(pipeline.tasks.__file__).parent.glob("*.py") if file.name not in {"config.py", "kinds.py"}
]
HIDDEN = """
import runpy, sys
sys.modules['pipeline'] = sys.modules['torch'] = None
sys.argv = {0}
sys.path.insert(0, '.')
runpy.run_path({0}[0], None, '__main__')
"""


def alone(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a program of the bundle where neither torch nor this program can be imported."""
    command = [sys.executable, "-B", "-c", HIDDEN.format(list(arguments))]
    return subprocess.run(command, cwd=bundle, check=False, capture_output=True, text=True, timeout=120)


def verify(bundle: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Return exit code and what `secateur verify --json` says."""
    done = CliRunner().invoke(app, ["verify", str(bundle), "--json", *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder with `bundle` and `bundle.tar.gz` for each task; nobody changes them."""
    base = tmp_path_factory.mktemp("tasks")
    mixed = file_task(base / "mixed" / "code", TWO_INPUTS, offset=0.5)
    tokens = file_task(base / "tokens" / "code", TOKENS)
    found = {
        "mixed": task_content(base / "mixed" / "run", mixed, mixed_network(2), samples=3),
        "tokens": task_content(base / "tokens" / "run", tokens, token_network(1), runtimes=("onnxruntime",)),
    }
    for name, content in found.items():
        write_bundle(content, (base / name / "bundle", base / name / "bundle.tar.gz"))
    return {name: base / name for name in found}


@pytest.fixture
def good(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """Return the bundle of the two inputs, which a test may change."""
    shutil.copytree(bundles["mixed"] / "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    ("name", "runtime"), [("mixed", "onnxruntime"), ("mixed", "openvino"), ("tokens", "onnxruntime")]
)
def test_verified_by_this_program_and_by_itself(bundles: dict[str, Path], name: str, runtime: str) -> None:
    """Every output of every sample; the bundle's own program runs the task's code too, and this one says it did not."""
    for bundle in (bundles[name] / "bundle", bundles[name] / "bundle.tar.gz"):
        code, found = verify(bundle, "--runtime", runtime)
        assert (code, found["verified"], found["error"]) == (0, True, "")
        assert any("task's own code was not run" in note for note in found["notes"])
    outputs = {"mixed": 3 * 2, "tokens": 4}[name]
    assert len(found["differences"]) == outputs
    told = json.loads((done := alone(bundles[name] / "bundle", "verify.py", "--runtime", runtime, "--json")).stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert {check["name"] for check in told["checks"]} >= {"outputs", "task", "self-test"}
    assert not [note for note in told["notes"] if "prediction" in note]
    assert not list(bundles[name].rglob("__pycache__"))


def test_what_is_found_is_told_without_torch(bundles: dict[str, Path]) -> None:
    """In the task's own words, else in numbers; for programs as JSON; in each runtime."""
    done = alone(bundles["mixed"] / "bundle", "infer.py", "samples/0.npz", "samples/1.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == ["samples/0.npz", "samples/1.npz"]
    assert done.stdout.count(" mm at (") == done.stdout.count(" of (1, 6, 6)") == 2
    done = alone(bundles["mixed"] / "bundle", "infer.py", "samples/0.npz", "--runtime", "openvino", "--json")
    told = json.loads(done.stdout)
    with np.load(bundles["mixed"] / "bundle" / "samples" / "0.prediction.npz") as expected:
        (found,) = told["results"]
        assert (told["runtime"], found["prediction.side"]) == ("openvino", str(expected["prediction.side"]))
        assert found["prediction.value"] == pytest.approx(expected["prediction.value"].tolist(), rel=1e-4)
    done = alone(bundles["tokens"] / "bundle", "infer.py", "samples/3.npz")
    with np.load(bundles["tokens"] / "bundle" / "samples" / "3.prediction.npz") as expected:
        assert done.stdout == f"samples/3.npz: {', '.join(map(str, expected['prediction']))}\n"


def test_ready_inputs_of_a_users_file(bundles: dict[str, Path]) -> None:
    """Neither its preprocess nor its words are called, which are for the sample as it was given."""
    done = alone(bundles["mixed"] / "bundle", "infer.py", "samples/0.inputs.npz", "--ready")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  side: " in done.stdout
    assert " mm at (" not in done.stdout


def test_what_the_network_itself_refuses(bundles: dict[str, Path], tmp_path: Path) -> None:
    """A word beyond its table has the right type and shape: the runtime's reason in one line."""
    np.savez(tmp_path / "unknown.npz", raw=np.full(8, 99))
    done = alone(bundles["tokens"] / "bundle", "infer.py", str(tmp_path / "unknown.npz"))
    assert (done.returncode, done.stdout) == (2, "")
    said = [line for line in done.stderr.splitlines() if line.startswith("infer.py: ")]
    assert len(said) == 1
    assert said[0].startswith("infer.py: the network cannot be run on these samples in onnxruntime (")
    assert "Traceback" not in done.stderr


def test_nobody_reads_what_is_found(bundles: dict[str, Path]) -> None:
    """As of `| head`: no words, and the exit code of SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-Bu", "infer.py", "samples/0.npz"]  # each line is written at once
    done = subprocess.run(
        command, cwd=bundles["tokens"] / "bundle", check=False, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_predictions_are_those_that_the_score_was_taken_of(bundles: dict[str, Path]) -> None:
    """Raw samples are validation samples; their inputs and predictions those that the task makes of them."""
    folder = bundles["mixed"] / "bundle" / "samples"
    task = file_task(bundles["mixed"] / "again", TWO_INPUTS, offset=0.5)
    for place, raw in enumerate(task.data.raw_samples("validation", [0, 4, 8])):
        raws, inputs, outputs = (np.load(folder / f"{place}{part}.npz") for part in ("", ".inputs", ".outputs"))
        assert all(np.array_equal(raws[name], raw[name]) for name in raw)
        feeds = task.feeds("validation", [(0, 4, 8)[place]])
        assert all(np.array_equal(inputs[name], feeds[name][0]) for name in feeds)
        (prediction,) = task.predictions({name: outputs[f"onnxruntime.{name}"][None] for name in ("value", "map")})
        with np.load(folder / f"{place}.prediction.npz") as expected:
            assert np.array_equal(expected["prediction.value"], prediction["value"])
            assert expected["prediction.place"].tolist() == list(prediction["place"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["samples/0.outputs.npz"],
            "samples/0.outputs.npz: it lacks image, which preprocess(raw) takes (task/my_task.py:",
        ),
        (["samples/expected.json"], "because this task takes no single image"),
        (["nothing.npz"], "nothing.npz"),
        (["samples/0.npz", "--draw", "out.png"], "--draw: allowed for tasks that take one image"),
        (["samples/0.npz", "--threads", "0"], "--threads must be 1 or more"),
        (["samples/0.npz", "samples/1.npz", "--draw", "out.png"], "--draw needs one sample"),
    ],
)
def test_samples_that_cannot_be_used(bundles: dict[str, Path], arguments: list[str], says: str) -> None:
    """One line and exit code 2."""
    done = alone(bundles["mixed"] / "bundle", "infer.py", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("show", "told"),
    [
        (lambda prediction, raw: f"{prediction} {raw}", "1 2"),
        (lambda prediction, raw, digits=3: f"{prediction} {raw} {digits}", "1 2 3"),
        (lambda prediction, raw, classes: f"{prediction} {raw} {classes}", "1 2 ('a', 'b')"),
        (lambda prediction, raw, *, classes=(): f"{prediction} {raw} {classes}", "1 2 ('a', 'b')"),
        (lambda prediction, raw, names: f"{prediction} {raw} {names}", "1 2 ('a', 'b')"),
        (lambda prediction, *others: f"{prediction} {others}", "1 (2,)"),
    ],
)
def test_classes_reach_what_takes_them(show: Callable[..., str], told: str) -> None:
    """By their name, or as the third argument that there has to be; words for two arguments are called with two."""
    code = TaskCode(SimpleNamespace(show=show), {"classes": ["a", "b"]})
    assert code.show(1, 2) == told


@pytest.mark.parametrize("file", [*TASK_CODE.values(), *KITS], ids=lambda file: file.name)
def test_what_ships_is_written_for_python_39(file: Path) -> None:
    """The oldest Python that runtimes and boards still come with compiles it, and it needs nothing newer of zip."""
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [node for node in calls for keyword in node.keywords if keyword.arg == "strict"]


def test_without_numpy(bundles: dict[str, Path]) -> None:
    """Exit code 5, with the line that installs it."""
    code = "import runpy, sys; sys.modules['numpy'] = None; runpy.run_path('infer.py', None, '__main__')"
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=bundles["mixed"] / "bundle", check=False, capture_output=True, text=True)
    assert done.returncode == 5
    assert "pip install -r requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr


def test_on_a_device(bundles: dict[str, Path], good: Path) -> None:
    """What is compared there is told here: every sample, the largest difference, what is allowed, and the note."""
    for runtime in ("onnxruntime", "openvino"):
        code, found = verify(bundles["mixed"] / "bundle.tar.gz", "--device", "local", "--runtime", runtime)
        assert (code, found["verified"], found["error"]) == (0, True, "")
        assert [check["name"] for check in found["checks"]].count("outputs") == 3
        assert len(found["differences"]) == 6
        assert 0 <= found["max_abs"] <= found["allowed"]
    with np.load(good / "samples" / "1.outputs.npz") as stored:
        changed = {name: stored[name] * np.float32(1.01) for name in stored.files}
    np.savez(good / "samples" / "1.outputs.npz", **changed)
    rewrite(good)
    code, found = verify(good, "--device", "local")
    assert (code, found["verified"]) == (6, False)
    assert "local: " in found["error"]
    assert "samples/1.npz: its output value differs" in found["error"]


# -- what cannot ship --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("import numpy as np\n", "import numpy as np\nimport torch\n", "there is no module torch (task/my_task.py:3)"),
        ('        return {"image"', '        import PIL.Image\n        return {"image"', "there is no module PIL"),
        ("    return Mixed(", "    from pipeline import api\n    return Mixed(", "there is no module pipeline"),
        (
            "    return Mixed(",
            "    open('{data}').close()\n    return Mixed(",
            "data.txt, which is not part of",
        ),
        (
            '{"image": image,',
            '{"name": b"x", "image": image,',
            "the raw sample is a bytes, allowed in a",
        ),
        ("assert names == self.classes", "return names[2]", "show() failed: IndexError: tuple index out of range"),
        ('"side": "left"', '"side": {1} if place else "left"', "prediction.side is a set, allowed: numbers, text"),
    ],
)
def test_tasks_that_no_board_can_run(tmp_path: Path, old: str, new: str, says: str) -> None:
    """Each is refused with the user's file and line, and nothing is written."""
    assert old in TWO_INPUTS
    (tmp_path / "data.txt").write_text("1")
    changed = TWO_INPUTS.replace(old, new.replace("{data}", str(tmp_path / "data.txt")))
    task = file_task(tmp_path / "code", changed)
    given = task_content(tmp_path / "run", task, mixed_network(1), runtimes=("onnxruntime",), samples=1)
    with pytest.raises(InputError, match=r"my_task\.py: ") as error:
        write_bundle(given, (tmp_path / "bundle",))
    assert says in str(error.value)
    assert ("inside loss" in str(error.value)) == ("there is no module" in says or "is not part of" in says)
    assert not (tmp_path / "bundle").exists()
