"""Timing with decoding: every call of the worker runs on the task's samples and decodes what comes out."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.analysis.timed_decoding import timed_decoding
from pipeline.core.dataset import Dataset, Normalisation, Split
from pipeline.core.errors import InputError
from pipeline.data.arrays import image_classifier
from pipeline.data.task_file import load_task_file
from pipeline.measure.bench import bench_files
from pipeline.measure.runtimes import InputPort
from pipeline.measure.subjects import MeasureTerms
from pipeline.measure.worker_bench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pipeline.core.task import Task

TASK = """
import numpy as np
from pathlib import Path

class Metric:
    name = "error"
    def statistic(self, prediction, target):
        return 0.0

class Task:
    metrics = [Metric()]
    def __init__(self, log):
        self.log = Path(log)
    def eval_samples(self, split):
        return [(f"{split}{i}", np.full((3, 8, 8), i, np.float32), 0) for i in range(2)]
    def preprocess(self, raw):
        return {"image": raw}
    def decode(self, outputs):
        with self.log.open("a") as log:
            log.write(" ".join(f"{name}:{values.shape}" for name, values in outputs.items()) + "\\n")
        return int(outputs["scores"].argmax())

def task(log):
    return Task(log)
"""


class Copying:
    """A device whose files lie in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Copy the files there."""
        for name, path in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.folder / name)
        return {name: str(self.folder / name) for name in files}


class Fake:
    """A session without a runtime, which keeps what it was given."""

    name, version = "onnxruntime", "9"

    def __init__(self, shape: tuple[int, ...] = (2, 3, 8, 8), name: str = "image") -> None:
        self.inputs = (InputPort(name, shape, "float32"),)
        self.options: dict[str, str] = {}
        self.given: list[Any] = []

    def run(self, *inputs: Any) -> list[Any]:  # noqa: ANN401 - arrays
        """Return logits of three classes for each of the batch."""
        self.given.append(inputs[0])
        return [np.eye(3, dtype=np.float32)[[0] * len(inputs[0])]]


def file_task(folder: Path, text: str = TASK) -> Task:
    """Return the task above, whose decode writes a line to a log."""
    (folder / "task.py").write_text(text)
    return load_task_file(folder / "task.py", {"log": str(folder / "log")})


def opened(folder: Path, task: Task, session: Fake, outputs: tuple[str, ...] = ("scores",)) -> Bench:
    """Return a worker with one subject, whose task was sent to another folder."""
    bench = Bench(lambda _file: session)  # type: ignore[arg-type, return-value]
    with timed_decoding(task, 2) as decoding:
        sent = decoding.sent_to(Copying(folder / "there"), outputs)  # type: ignore[arg-type]
    bench.create(0, {"decoding": sent}, seed=0)
    return bench


def test_every_call_runs_on_the_samples_and_decodes_each(tmp_path: Path) -> None:
    """Two samples in a batch are decoded with each of four calls; nothing is random."""
    session = Fake()
    bench = opened(tmp_path, file_task(tmp_path), session)
    bench.block(0, 3)
    assert len(session.given) == 4
    assert all(given[:, 0, 0, 0].tolist() == [0.0, 1.0] for given in session.given)
    assert (tmp_path / "log").read_text().splitlines() == ["scores:(3,)"] * 8


def test_an_image_classifier_is_decoded_by_the_kit_of_classification(tmp_path: Path) -> None:
    """Its own code is no file that can be sent, so that of its kind is."""
    images = Split(np.zeros((3, 3, 8, 8), np.uint8), np.zeros(3, np.int64))
    data = Dataset("none", ("a", "b", "c"), Normalisation((0.5,) * 3, (0.5,) * 3), images, images, images)
    session = Fake(name="input")
    opened(tmp_path, image_classifier(data), session).block(0, 1)
    assert float(session.given[0].max()) == -1.0
    assert [*(tmp_path / "there").rglob("classification.py")]


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (TASK.replace('outputs["scores"]', 'outputs["boxes"]'), (2, 3, 8, 8), "decode(outputs) failed: KeyError"),
        (TASK, (2, 3, 9, 9), "the input image is [2, 3, 9, 9], the task's samples are [2, 3, 8, 8]"),
        (TASK.replace("def task(", "import nothing_here\ndef task("), (2, 3, 8, 8), "task.py cannot be loaded"),
    ],
    ids=["decode", "shape", "import"],
)  # fmt: skip
def test_what_cannot_be_decoded_is_one_message(tmp_path: Path, text: str, shape: tuple[int, ...], message: str) -> None:
    """It names the task's function, the shapes, or the module that a device lacks."""
    task = file_task(tmp_path, TASK)
    (tmp_path / "task.py").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        opened(tmp_path, task, Fake(shape))


def test_bench_times_files_with_their_decoding(tmp_path: Path, write_onnx: Callable[..., Path]) -> None:
    """The worker's own process decodes in every call of every file, and the measurement says so."""
    path = write_onnx("net.onnx")
    with timed_decoding(
        file_task(tmp_path, TASK.replace('outputs["scores"]', "[*outputs.values()][0]")), 1
    ) as decoding:
        terms = MeasureTerms(threads=1, batch=1, measure_peak_memory=False, decoding=decoding)
        found = bench_files([path, path], terms, runtime="onnxruntime", budget_s=0.1, seed=0)
    sessions = [session for subject in found.subjects for session in subject.sessions]
    calls = sum(len(block.wall_ns) for each in sessions for block in (*each.warmup, *each.rounds))
    assert len((tmp_path / "log").read_text().splitlines()) == calls + len(sessions) + 2  # first calls, and the checks
    assert found.time_scope == "model+decode"
    assert '"time_scope":"model+decode"' in found.model_dump_json()
