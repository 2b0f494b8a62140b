"""Samples are images that may be passed on, with the outputs that the shipped files gave on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle.on_device import infer
from pipeline.bundle.preprocessing import write_preprocessing
from pipeline.bundle.samples import by_turns, choose, drawn, may_be_passed_on, write_samples
from pipeline.core.dataset import Split
from pipeline.core.errors import StageError
from tests.unit.bundle.small_content import CLASSES, content, dataset

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.bundle.content import Content

NON_COMMERCIAL = "CC-BY-NC-SA-4.0"


def written(made: Content, folder: Path) -> dict[str, Any]:
    """Write the samples with what they need, and return expected.json."""
    (folder / "model").mkdir(parents=True)
    for file in made.files.values():
        for part in file.parent.glob("model.*"):
            shutil.copy(part, folder / "model")
    write_preprocessing(made, folder)
    write_samples(made, folder)
    found: dict[str, Any] = json.loads((folder / "samples" / "expected.json").read_text())
    return found


def pixels(folder: Path, sample: dict[str, Any]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a sample's pixels [C, H, W]."""
    with Image.open(folder / sample["file"]) as image:
        values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_validation_images_where_anyone_may_pass_them_on(tmp_path: Path, channels: int) -> None:
    """MIT data: images of the validation split, never others, with their classes in turn and the data's licence."""
    made = content(tmp_path / "run", dataset(channels))
    found = written(made, tmp_path / "bundle")
    validation = made.dataset.validation
    assert found["schema_version"] == 1
    assert [sample["file"] for sample in found["samples"]] == [f"samples/{place}.png" for place in range(4)]
    assert {sample["label"] for sample in found["samples"]} == set(CLASSES)
    for sample in found["samples"]:
        same = (validation.images == pixels(tmp_path / "bundle", sample)).all(axis=(1, 2, 3))
        assert [CLASSES[label] for label in validation.labels[same]] == [sample["label"]]
        assert sample["licence"] == "MIT"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_outputs_are_those_of_the_files_bit_by_bit(tmp_path: Path, runtime: str) -> None:
    """Numbers are written so that they are read back as they were; the tolerance is a share of the largest."""
    found = written(content(tmp_path / "run"), tmp_path / "bundle")
    preprocessing = infer.load_preprocessing(tmp_path / "bundle")
    images = np.stack(
        [infer.read_image(tmp_path / "bundle" / each["file"], preprocessing) for each in found["samples"]]
    )
    outputs = infer.Network(tmp_path / "bundle", runtime).logits(infer.normalise(images, preprocessing))
    assert [each["outputs"][runtime] for each in found["samples"]] == outputs.tolist()
    assert found["tolerance"][runtime]["max_abs"] == pytest.approx(1e-4 * abs(outputs).max())
    assert found["exact"] == {"onnxruntime": False, "openvino": False}


def test_images_of_others_stay_at_home(tmp_path: Path) -> None:
    """Under a non-commercial licence samples are drawn: no image of the data, no class, nobody's licence."""
    data = dataset(licence=NON_COMMERCIAL)
    found = written(content(tmp_path / "run", data), tmp_path / "bundle")
    everything = np.concatenate([split.images for split in (data.train, data.validation, data.test)])
    assert len(found["samples"]) == 4
    for sample in found["samples"]:
        assert (sample["label"], sample["licence"]) == (None, "CC0-1.0")
        assert not (everything == pixels(tmp_path / "bundle", sample)).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(
    ("licence", "options", "expected"),
    [
        ("", {}, "CC0-1.0"),
        ("", {"data_licence": "cc-by-4.0"}, "cc-by-4.0"),
        (NON_COMMERCIAL, {"sample_source": "validation"}, NON_COMMERCIAL),
        ("MIT", {"sample_source": "synthetic"}, "CC0-1.0"),
        ("MIT", {"data_licence": "all rights reserved"}, "CC0-1.0"),
    ],
)
def test_what_a_person_says_goes(tmp_path: Path, licence: str, options: dict[str, Any], expected: str) -> None:
    """The options decide over what is known; without any word of a licence nothing is passed on."""
    found = written(content(tmp_path / "run", dataset(licence=licence), **options), tmp_path / "bundle")
    assert {sample["licence"] for sample in found["samples"]} == {expected}


def test_known_licences() -> None:
    """Those that let anyone pass images on, whatever the case of their letters; no other text."""
    assert all(map(may_be_passed_on, ("MIT", "mit", "Apache-2.0", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0")))
    assert not any(
        map(may_be_passed_on, ("", "not stated", NON_COMMERCIAL, "CC-BY-ND-4.0", "proprietary", "MIT or so"))
    )


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """Drawn images and their outputs do not depend on anything but the run."""
    made = content(tmp_path / "run", dataset(licence=NON_COMMERCIAL))
    written(made, tmp_path / "one")
    written(made, tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one" / "samples").iterdir())
    assert names == ["0.png", "1.png", "2.png", "3.png", "expected.json"]
    for name in names:
        assert (tmp_path / "one/samples" / name).read_bytes() == (tmp_path / "two/samples" / name).read_bytes()


def test_drawn_images_tell_nothing_of_single_ones() -> None:
    """Only brightness and contrast go into them: with every image's pixels in another order they stay the same."""
    data = dataset(3)
    generator = np.random.default_rng(0)
    shuffled = generator.permuted(data.train.images.reshape(48, 3, -1), axis=2).reshape(data.train.images.shape)
    one, two = drawn(data, 20), drawn(replace(data, train=Split(shuffled, data.train.labels)), 20)
    assert abs(one.astype(int) - two).max() <= 1
    assert len(np.unique(one, axis=0)) == 20
    assert one.std(axis=(1, 2, 3)).min() > 1


def test_classes_take_turns_and_the_most_certain_come_first() -> None:
    """Of each class the image with the largest margin; a drawn image counts for the class that the network says."""
    answers = np.array([[3, 0], [9, 0], [0, 1], [0, 5], [8, 0]], np.float32)
    assert choose(answers, (None,) * 5, 4) == [1, 3, 4, 2]
    assert choose(answers, ("x", "x", "x", "y", "y"), 3) == [1, 4, 3]
    assert by_turns(np.array([0, 0, 1, 0, 1])) == [0, 2, 1, 4, 3]


def test_fewer_validation_images_than_samples(tmp_path: Path) -> None:
    """As many samples as there are images, and a note that says so; their names sort as they are numbered."""
    notes: list[str] = []
    made = content(tmp_path / "run", runtimes=("onnxruntime",), samples=30)
    made.progress.note = notes.append  # type: ignore[method-assign]
    found = written(made, tmp_path / "bundle")
    assert [sample["file"] for sample in found["samples"]] == [f"samples/{place:02d}.png" for place in range(24)]
    assert notes == ["bundle: 24 samples, because there are no more validation images"]


def test_a_network_without_finite_outputs(tmp_path: Path) -> None:
    """No bundle is made of a file that computes nothing."""
    made = content(tmp_path / "run", runtimes=("onnxruntime",), scale=1e30)
    with pytest.raises(StageError, match="outputs that are not finite"):
        written(made, tmp_path / "bundle")
