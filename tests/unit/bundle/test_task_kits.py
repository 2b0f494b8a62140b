"""Bundles of the built-in kinds: made of a kit and arrays, verified with the kit of both sides, told and drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle.place import write_bundle
from pipeline.data.task_sources import kind_files
from pipeline.report.numbers import MINUS
from pipeline.tasks import detection
from tests.unit.bundle.small_task import kit_content
from tests.unit.bundle.tampering import rewrite
from tests.unit.bundle.test_task_bundle import alone, verify

KINDS = ("detection", "segmentation", "token")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the bundle of each kind; nobody changes them."""
    base = tmp_path_factory.mktemp("kits")
    for kind in KINDS:
        runtimes = ("onnxruntime", "openvino") if kind == "detection" else ("onnxruntime",)
        given = kit_content(base / kind / "run", kind, runtimes=runtimes, samples=2)
        write_bundle(given, (base / kind / "bundle",))
    return {kind: base / kind / "bundle" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_run_the_kit(bundles: dict[str, Path], kind: str) -> None:
    """This program its own, here and on a device; the bundle the one that it brings, without torch."""
    found = [verify(bundles[kind])[1], verify(bundles[kind], "--device", "local")[1]]
    done = alone(bundles[kind], "verify.py", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    for each in (*found, json.loads(done.stdout)):
        assert (each["verified"], each["error"]) == (True, "")
        checks = {check["name"]: check["text"] for check in each["checks"]}
        assert checks["task"] == "2 of 2 predictions are those expected, or near"
    assert not [note for each in found for note in each["notes"] if "not run" in note]


@pytest.mark.parametrize(
    ("kind", "told"),
    [("detection", ("plain 0.", "striped 0.")), ("segmentation", ("plain ", "striped ")), ("token", ("B-X", "O"))],
)
def test_what_is_found_is_told(bundles: dict[str, Path], kind: str, told: tuple[str, ...]) -> None:
    """In the kit's words, with the names of classes; of an image file the same as of the arrays."""
    arrays = alone(bundles[kind], "infer.py", "samples/0.npz", "samples/1.npz")
    assert (arrays.returncode, arrays.stderr) == (0, "")
    assert all(text in arrays.stdout for text in told)
    if kind != "token":
        images = alone(bundles[kind], "infer.py", "samples/0.png", "samples/1.png", "--json")
        results = json.loads(images.stdout)["results"]
        for place, each in enumerate(results):
            with np.load(bundles[kind] / "samples" / f"{place}.prediction.npz") as expected:
                assert np.allclose(each["prediction"], expected["prediction"], atol=1e-3)


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_what_is_found_is_drawn(bundles: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Into the image at its own size, in colour, which changes some pixels and not all."""
    done = alone(bundles[kind], "infer.py", "samples/0.png", "--draw", str(tmp_path / "found.png"))
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(bundles[kind] / "samples" / "0.png") as before, Image.open(tmp_path / "found.png") as after:
        assert (after.size, after.mode) == (before.size, "RGB")
        same = (np.asarray(before) == np.asarray(after)).all(axis=2)
    assert 0 < same.mean() < 1


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (
            Image.new("RGB", (32, 16)),
            "image.png: the input input is uint8 [3, 16, 32], allowed: uint8 [3, 32, 32]; resize to 32x32",
        ),
        (Image.new("I;16", (32, 32), 9000), "has more than 8 bits, allowed: 8"),
    ],
)
def test_images_that_do_not_fit(bundles: dict[str, Path], tmp_path: Path, image: Image.Image, says: str) -> None:
    """They are not resized, as nobody said how: one line, exit code 2."""
    image.save(tmp_path / "image.png")
    done = alone(bundles["detection"], "infer.py", str(tmp_path / "image.png"))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


PIXELS = np.zeros((3, 32, 32), np.uint8)
READY = "; give pixels from 0 to 255, which are normalised here, or, with --ready, inputs as the network takes them"
LAST = "; channels last: transpose(2, 0, 1)"


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"input": PIXELS / np.float32(255)}, f"float32 [3, 32, 32], allowed: uint8 [3, 32, 32]{READY}"),
        ({"input": PIXELS.transpose(1, 2, 0)}, f"uint8 [32, 32, 3], allowed: uint8 [3, 32, 32]{LAST}\n"),
        ({"input": PIXELS[:2]}, "uint8 [2, 32, 32], allowed: uint8 [3, 32, 32]\n"),
        ({"input": PIXELS[None]}, "uint8 [1, 3, 32, 32], allowed: uint8 [3, 32, 32]\n"),
        ({"input": PIXELS[:, :9]}, "uint8 [3, 9, 32], allowed: uint8 [3, 32, 32]; resize to 32x32\n"),
        ({"image": PIXELS}, "it lacks input: the inputs are image, allowed: input\n"),
    ],
)
def test_arrays_that_do_not_fit(
    bundles: dict[str, Path], tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], says: str
) -> None:
    """What was found and what is allowed, as it is given rather than as the network takes it, and what to do."""
    np.savez(tmp_path / "image.npz", **arrays)  # type: ignore[arg-type] # of names and arrays
    done = alone(bundles["detection"], "infer.py", str(tmp_path / "image.npz"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"infer.py: {tmp_path / 'image.npz'}: ")
    assert says in done.stderr


def test_inputs_as_the_network_takes_them(bundles: dict[str, Path]) -> None:
    """They need to be called so; then what is found is the same, and nothing is drawn, as there is no image."""
    bundle = bundles["detection"]
    raw, ready = (
        alone(bundle, "infer.py", "samples/0.npz"),
        alone(bundle, "infer.py", "samples/0.inputs.npz", "--ready"),
    )
    assert (ready.returncode, ready.stderr) == (0, "")
    assert ready.stdout.splitlines()[1:] == raw.stdout.splitlines()[1:]
    assert alone(bundle, "infer.py", "samples/0.inputs.npz").returncode == 2
    for others, says in (
        (["samples/0.npz"], "the input input is uint8 [3, 32, 32], allowed: float32 [3, 32, 32]"),
        (["samples/0.png"], "allowed with --ready: an .npz file"),
        (["samples/0.inputs.npz", "--draw", "found.png"], "without --ready"),
    ):
        done = alone(bundle, "infer.py", "--ready", *others)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr


def test_only_what_the_kit_needs_ships(bundles: dict[str, Path]) -> None:
    """The kind's file and the neighbours that it imports as it runs, as they are here."""
    brought = {path.name for path in (bundles["detection"] / "task").iterdir()}
    own = kind_files(Path(detection.__file__))
    assert brought == {*own, "task.json"}
    assert {"detection.py", "boxes.py", "kit.py", "drawing.py"} <= brought
    assert not {"config.py", "kinds.py", "segmentation.py"} & brought


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"score_threshold": 0.05', '"score_threshold": 0.6', "its code decodes the outputs otherwise: prediction is"),
        ('"class": "Detection"', '"class": "Metric"', "detection.Metric is not a class of that file"),
        ('"strides": [', '"unknown": [', "unknown"),
    ],
)
def test_other_settings_are_found_by_both(
    bundles: dict[str, Path], tmp_path: Path, old: str, new: str, says: str
) -> None:
    """Where the checksums were rewritten, the expected predictions find them."""
    folder = tmp_path / "bundle"
    shutil.copytree(bundles["detection"], folder)
    before = (folder / "task" / "task.json").read_text()
    assert old in before
    (folder / "task" / "task.json").write_text(before.replace(old, new))
    rewrite(folder)
    code, found = verify(folder)
    done = alone(folder, "verify.py")
    assert code == done.returncode != 0
    assert says in found["error"]
    assert says in done.stderr


def test_the_card_speaks_of_the_metric(bundles: dict[str, Path]) -> None:
    """Kind, inputs, classes, every metric of test and validation, how to use it; nothing of accuracy or images."""
    card = (bundles["detection"] / "MODEL_CARD.md").read_text()
    assert "A network for detection. It takes input (float32 \\[3, 32, 32\\]), and gives near, far." in card
    assert "Classes: plain, striped.\n" in card
    assert f"| test, 6 samples | mAP50-95 | 0.00 % | 0.00 % | 0.00 points \\[{MINUS}1.0, +1.0\\] |" in card
    assert "| validation, 6 samples | mAP50 | 0.00 % | 0.00 % | 0.00 points |" in card
    assert "infer.py samples/0.png " in card
    assert "| task/ | Apache-2.0 |" in card
    assert "ccuracy" not in card


def test_made_samples_where_data_may_not_be_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words in the range of the known ones, none of them those of a validation sample; written to a relative place."""
    monkeypatch.chdir(tmp_path)
    given = kit_content(tmp_path / "run", "token", runtimes=("onnxruntime",), data_licence="CC-BY-NC-4.0", samples=3)
    write_bundle(given, (Path("bundle"),))
    expected: dict[str, Any] = json.loads((tmp_path / "bundle" / "samples" / "expected.json").read_text())
    known = {tuple(raw["words"]) for raw in given.task.data.raw_samples("validation", slice(None))}
    for sample in expected["samples"]:
        with np.load(tmp_path / "bundle" / sample["file"]) as stored:
            assert stored["words"].shape == (8,)
            assert 0 <= stored["words"].min() <= stored["words"].max() < 20
            assert tuple(stored["words"]) not in known
        assert (sample["made"], sample["licence"]) == (True, "CC0-1.0")
    assert "The samples are generated, not taken from data" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert verify(tmp_path / "bundle")[0] == 0
