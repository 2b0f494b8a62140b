"""What is changed in the bundle of any task is found: by checksums, by outputs, by what the task's code makes."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.bundle.place import write_bundle
from tests.unit.bundle.small_task import TWO_INPUTS, file_task, mixed_network, task_content
from tests.unit.bundle.tampering import rewrite
from tests.unit.bundle.test_task_bundle import alone, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a bundle whose task takes an image and numbers; nobody changes it."""
    base = tmp_path_factory.mktemp("mixed")
    task = file_task(base / "code", TWO_INPUTS, offset=0.5)
    given = task_content(base / "run", task, mixed_network(1), runtimes=("onnxruntime",), samples=3)
    write_bundle(given, (base / "bundle",))
    return base / "bundle"


@pytest.fixture
def good(made: Path, tmp_path: Path) -> Path:
    """Return a bundle that a test may change."""
    shutil.copytree(made, tmp_path / "bundle")
    return tmp_path / "bundle"


def arrays(name: str, key: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Replace an array in a file of a bundle; a function makes the new from the old."""

    def changed(folder: Path) -> None:
        with np.load(folder / name) as stored:
            found = {each: stored[each] for each in stored.files}
        np.savez_compressed(folder / name, **{**found, key: change(found[key])})

    return changed


def text(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace a text in a file of a bundle."""

    def changed(folder: Path) -> None:
        before = (folder / name).read_text()
        assert old in before
        (folder / name).write_text(before.replace(old, new))

    return changed


def of_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change a JSON file of a bundle."""

    def changed(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return changed


def widen(content: dict[str, Any]) -> None:
    """Allow more than a tenth of the largest output."""
    content["tolerance"]["onnxruntime"]["map"]["max_abs"] = 9.0


def point_out(content: dict[str, Any]) -> None:
    """Name a file outside of the bundle."""
    content["samples"][0]["inputs"] = "../0.npz"


SYSTEM = {"module": "os", "class": "system", "settings": {}}
NO_KIND = {"module": "detection", "class": "Detector", "settings": {}}
EXPECTED = "samples/expected.json"
OUTPUTS, INPUTS = "samples/1.outputs.npz", "samples/1.inputs.npz"
#: What everybody finds who runs the samples: a change, the exit code, and what the refusal says.
CHANGES: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "output": (arrays(OUTPUTS, "onnxruntime.map", lambda old: old * 1.01), 6, "1.npz: its output map differs by"),
    "shape": (
        arrays(OUTPUTS, "onnxruntime.map", np.ravel),
        6,
        "its output map is float32 [1, 6, 6], expected",
    ),
    "not finite": (arrays(OUTPUTS, "onnxruntime.map", lambda old: old * np.inf), 2, "or not finite ones"),
    "inputs": (arrays(INPUTS, "meta", lambda old: old[:2]), 2, "the input meta is float32 [2], allowed: float32 [3]"),
    "dtype": (arrays(INPUTS, "image", lambda old: old.astype(float)), 2, "the input image is float64"),
    "other inputs": (arrays(INPUTS, "meta", lambda old: old + 9), 6, "1.npz: its output value differs by"),
    "objects": (arrays("samples/0.npz", "meta", lambda old: old.astype(object)), 2, "0.npz is not an .npz file"),
    "no arrays": (lambda folder: (folder / "samples/0.npz").write_text("hello"), 2, "0.npz is not an .npz file"),
    "tolerance": (of_json(EXPECTED, widen), 2, "the tolerance of map in onnxruntime is 9"),
    "elsewhere": (of_json(EXPECTED, point_out), 2, "'../0.npz' is not a file of the bundle"),
    "no samples": (of_json(EXPECTED, lambda it: it.update(samples=[])), 2, "there are no samples"),
    "no outputs": (of_json("task/task.json", lambda it: it.update(outputs=[])), 2, "outputs missing or malformed"),
    "no code": (of_json("task/task.json", lambda it: it.update(code={})), 2, "code missing or malformed"),
    "system": (
        of_json("task/task.json", lambda it: it.update(code=SYSTEM)),
        2,
        "this version has no such kind of task",
    ),
    "no kind": (
        of_json("task/task.json", lambda it: it.update(code=NO_KIND)),
        2,
        "detection.Detector is not a class of",
    ),
    "no shapes": (of_json("preprocess.json", lambda it: it.update(inputs=[{}])), 2, "inputs missing or malformed"),
}
#: What the bundle's own program finds, which alone runs the task's code.
CODE_CHANGES = {
    "decode": (text("task/my_task.py", "argmax", "argmin"), 6, "decodes the outputs otherwise"),
    "preprocess": (text("task/scaling.py", "255", "254"), 6, "makes other inputs of the sample"),
    "failure": (text("task/my_task.py", "divmod(place, 6)", "1 / 0"), 6, "decode() failed: ZeroDivisionError"),
    "none": (text("task/my_task.py", "import numpy", "import  numpy as"), 2, "cannot be loaded: SyntaxError"),
}


def test_checksums_find_all(good: Path) -> None:
    """A changed byte of the task's code or of its samples is a changed file."""
    for name in ("task/my_task.py", "task/task.json", "samples/0.inputs.npz", "on_device/task/network.py"):
        before = (good / name).read_bytes()
        (good / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        code, found = verify(good)
        assert (code, found["error"]) == (2, f"{name}: it was changed: its sha256 is not that of SHA256SUMS")
        (good / name).write_bytes(before)
    assert verify(good)[0] == 0


@pytest.mark.parametrize("name", CHANGES)
def test_rewritten_around_other_numbers(good: Path, name: str) -> None:
    """Where the checksums were rewritten too, the samples find it, without a traceback."""
    change, code, says = CHANGES[name]
    change(good)
    rewrite(good)
    done, found = verify(good)
    assert (done, found["verified"]) == (code, False)
    assert says in found["error"]


@pytest.mark.parametrize("name", CODE_CHANGES)
def test_rewritten_around_other_code(good: Path, name: str) -> None:
    """The bundle's own program runs that; this one says that it did not."""
    change, code, says = CODE_CHANGES[name]
    change(good)
    rewrite(good)
    done = alone(good, "verify.py")
    assert (done.returncode, done.stderr.startswith("error: ")) == (code, True)
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    code, found = verify(good)
    assert code == 0
    assert any("the task's own code was not run" in note for note in found["notes"])


def test_exact_means_every_bit(good: Path) -> None:
    """Where outputs must be the same, a single bit counts."""
    of_json(EXPECTED, lambda it: it["exact"].update(onnxruntime=True))(good)
    rewrite(good)
    assert (verify(good)[0], alone(good, "verify.py").returncode) == (0, 0)
    arrays(OUTPUTS, "onnxruntime.value", lambda old: np.nextafter(old, np.float32(9)))(good)
    rewrite(good)
    assert (verify(good)[0], alone(good, "verify.py").returncode) == (6, 6)


def test_code_of_the_bundle_is_run_by_the_bundle_alone(good: Path) -> None:
    """This program runs neither the programs of a bundle nor its task."""
    marker = good.parent / "marker"
    for name in ("infer.py", "self_test.py", "on_device/infer.py", "on_device/task/network.py", "task/my_task.py"):
        with (good / name).open("a") as stream:
            stream.write(f"\nopen({str(marker)!r}, 'w')\n")
    rewrite(good)
    code, found = verify(good)
    assert (code, marker.exists()) == (0, False)
    assert "on_device/task/network.py is not that of this version of secateur, and is not run" in found["notes"]
    code, found = verify(good, "--device", "local")
    assert (code, marker.exists()) == (0, False)
