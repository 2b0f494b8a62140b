"""Every source gives the same kind of data set, and says how to get what is missing."""

from __future__ import annotations

import gzip
import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from pipeline.core.artifact import TensorSpec
from pipeline.core.dataset import Dataset, Preprocessing
from pipeline.core.errors import InputError
from pipeline.data import data_digest, elpv, fashion_mnist, load_data, load_task
from pipeline.data.config import DataConfig
from pipeline.data.fashion_mnist import download, read_verified
from tests.optional import require

if TYPE_CHECKING:
    from pathlib import Path

CONFIG: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)


def cifar_record(label_bytes: int, label: int, value: int) -> bytes:
    """Return one record whose pixels all have one value."""
    return bytes([0] * (label_bytes - 1) + [label]) + bytes([value]) * 3072


def write_cifar10(root: Path, records: int = 20) -> None:
    """Write a tiny CIFAR-10 of the published layout."""
    for name in [*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin"]:
        (root / name).write_bytes(b"".join(cifar_record(1, index % 2, index) for index in range(records)))
    (root / "batches.meta.txt").write_text("cat\ndog\n")


def write_images(root: Path, per_class: int = 12) -> None:
    """Write a folder of two classes, dark and light, of unequal sides."""
    for name, value in (("dark", 20), ("light", 230)):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            Image.new("RGB", (40, 30), (value, value, index)).save(root / name / f"{index}.png")


def test_elpv_has_the_published_counts() -> None:
    """2,624 cells, 821 of them defective, 656 in the test split as in the published work."""
    labels = elpv.read_labels(elpv.find())
    assert len(labels) == 2624
    assert sum(probability >= 0.5 for _, probability, _ in labels) == 821
    data = load_data(CONFIG.validate_python({"source": "elpv", "size": 32}))
    assert (len(data.train), len(data.validation), len(data.test)) == (1574, 394, 656)
    assert data.input_shape == (1, 32, 32)
    assert (data.preprocessing, data.licence) == (Preprocessing("grey", "stretch"), "CC-BY-NC-SA-4.0")
    shares = [float(split.labels.mean()) for split in (data.train, data.validation, data.test)]
    assert max(shares) - min(shares) < 0.01


def test_elpv_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is named with the command that installs it."""
    monkeypatch.setattr(elpv.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install elpv-dataset"):
        elpv.find()


def test_fashion_mnist_of_the_debian_package() -> None:
    """55,000 + 5,000 + 10,000 images of 28x28 pixels, every class as often as every other."""
    require("fashion-mnist")
    data = load_data(CONFIG.validate_python({"source": "fashion-mnist"}))
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert data.train.images.shape[1:] == (1, 28, 28)
    assert set(np.bincount(data.validation.labels)) == {500}
    assert (data.preprocessing, data.licence) == (Preprocessing("grey", "none"), "MIT")


def test_fashion_mnist_folder_without_a_file(tmp_path: Path) -> None:
    """A folder that lacks a file is bad input that names the file and the ways to get it."""
    with pytest.raises(InputError, match=r"no train-images-idx3-ubyte.*dataset-fashion-mnist"):
        fashion_mnist.find(tmp_path)


def test_idx_parsing_refuses_another_kind() -> None:
    """Bytes that do not begin as an idx file of unsigned bytes are refused; a right header gives the shape."""
    header = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3])
    assert fashion_mnist.parse_idx(header + bytes(range(6)), "x").tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="not an idx file"):
        fashion_mnist.parse_idx(b"\x00\x00\x0d\x01" + bytes(8), "x")


def test_download_keeps_nothing_that_does_not_match(tmp_path: Path) -> None:
    """A file whose content has another sha256 is refused and not kept; the right one is kept."""
    source, kept = tmp_path / "source.gz", tmp_path / "cache" / "file.gz"
    source.write_bytes(gzip.compress(b"content"))
    with pytest.raises(InputError, match="expected 0000"):
        download(source.as_uri(), kept, "0000")
    assert not kept.exists()
    right = hashlib.sha256(b"content").hexdigest()
    download(source.as_uri(), kept, right)
    assert read_verified(kept, right) == b"content"


def test_download_without_network_says_where_to_put_the_file(tmp_path: Path) -> None:
    """An address that does not answer is one message with the place where the file belongs."""
    missing = (tmp_path / "nowhere.gz").as_uri()
    with pytest.raises(InputError, match=r"cannot download .* put it into .*file\.gz"):
        download(missing, tmp_path / "file.gz", "0000")


def test_cifar_layout(tmp_path: Path) -> None:
    """Records become planes and labels; validation is held out of the five training files."""
    write_cifar10(tmp_path)
    config = {"source": "cifar10", "root": tmp_path, "validation_images": 10}
    data = load_data(CONFIG.validate_python(config))
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 20)
    assert data.classes == ("cat", "dog")
    assert data.test.images[3].min() == data.test.images[3].max() == 3
    assert (data.preprocessing, data.licence) == (Preprocessing("rgb", "none"), "")


def test_cifar_cut_short(tmp_path: Path) -> None:
    """A file that is not an integer of records is refused with its name; a missing one likewise."""
    write_cifar10(tmp_path)
    config = CONFIG.validate_python({"source": "cifar10", "root": tmp_path, "validation_images": 10})
    (tmp_path / "data_batch_2.bin").write_bytes(b"123")
    with pytest.raises(InputError, match=r"data_batch_2\.bin: 3 bytes"):
        load_data(config)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_2\.bin is missing"):
        data_digest(config)


def test_folder_without_splits_is_divided(tmp_path: Path) -> None:
    """A folder of classes is divided, every class in every split, resized and cut to a square."""
    write_images(tmp_path / "cells")
    data = load_data(CONFIG.validate_python({"source": "folder", "root": tmp_path / "cells", "size": 16}))
    assert (len(data.train), len(data.validation), len(data.test)) == (14, 4, 6)
    assert data.classes == ("dark", "light")
    assert data.input_shape == (3, 16, 16)
    assert set(data.validation.labels) == {0, 1}
    assert (data.preprocessing, data.licence) == (Preprocessing("rgb", "shorter-side-then-centre-crop"), "")


def test_data_with_a_size_are_there_at_others(tmp_path: Path) -> None:
    """Made from the files, in the same split; of other sizes the last one alone is kept."""
    write_images(tmp_path / "cells")
    config = {"source": "folder", "root": tmp_path / "cells", "size": 16, "channels": 1}
    task = load_task(None, CONFIG.validate_python(config))
    smaller = task.at_size(12)
    direct = load_data(CONFIG.validate_python({**config, "size": 12}))
    assert isinstance(direct, Dataset)
    assert np.array_equal(smaller.dataset().train.images, direct.train.images)
    assert np.array_equal(smaller.dataset().train.labels, task.dataset().train.labels)
    assert task.at_size(16) is smaller.at_size(16) is task
    assert task.at_size(12) is smaller.at_size(12) is smaller
    assert task.at_size(10) is not task.at_size(12)
    assert task.for_inputs(smaller.inputs(4)).inputs(1) == smaller.inputs(1)
    assert smaller.for_inputs(smaller.inputs(4)) is smaller
    assert task.for_inputs([TensorSpec(name="input", shape=(1, 1, -1, -1))]) is task
    with pytest.raises(InputError, match=r"data\.size: found 4, input should be greater than or equal to 8"):
        task.at_size(4)


def test_data_without_a_size_have_no_other(tmp_path: Path) -> None:
    """Which sources have one is said."""
    write_cifar10(tmp_path)
    config = {"source": "cifar10", "root": tmp_path, "validation_images": 10}
    task = load_task(None, CONFIG.validate_python(config))
    with pytest.raises(InputError, match=r"cannot be had with 16 pixels a side, .* as folder and elpv have"):
        task.at_size(16)
    assert task.for_inputs([TensorSpec(name="input", shape=(1, 3, 16, 16))]) is task


def test_folder_errors_name_the_place(tmp_path: Path) -> None:
    """An empty class, one class alone, a missing split and a broken image are each named."""
    write_images(tmp_path / "cells")
    config = CONFIG.validate_python({"source": "folder", "root": tmp_path / "cells", "size": 16})
    (tmp_path / "cells" / "dark" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png cannot be read as an image"):
        load_data(config)
    (tmp_path / "cells" / "empty").mkdir()
    with pytest.raises(InputError, match=r"2 problems\n  empty has no images[^\n]*\n  dark/0\.png cannot be read"):
        load_data(config)
    (tmp_path / "cells" / "train").mkdir()
    with pytest.raises(InputError, match="no validation folder"):
        load_data(config)
    with pytest.raises(InputError, match="1 class folders"):
        load_data(CONFIG.validate_python({"source": "folder", "root": tmp_path, "size": 16}))


def test_own_python_file(tmp_path: Path) -> None:
    """A user's file gives the data; its content and arguments are the digest, another return type is refused."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "from pipeline.core.dataset import Dataset, Normalisation, Split\n"
        "def load(count):\n"
        "    split = Split(np.zeros((count, 1, 4, 4), np.uint8), np.arange(count) % 2)\n"
        "    return Dataset('mine', ('a', 'b'), Normalisation((0.5,), (0.5,)), split, split, split)\n"
    )
    four, five = (
        CONFIG.validate_python({"source": "file", "path": file, "arguments": {"count": count}}) for count in (4, 5)
    )
    assert len(load_data(four).train) == 4
    assert (load_data(four).preprocessing, load_data(four).licence) == (None, "")
    assert data_digest(four) != data_digest(five)
    file.write_text("def load(count):\n    return count\n")
    with pytest.raises(InputError, match=r"load\(\) returned int"):
        load_data(four)
