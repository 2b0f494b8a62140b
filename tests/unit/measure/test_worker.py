"""What the worker answers: in this process, over streams, and as the program that a device runs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.core.errors import DeviceError, InputError, StageError
from pipeline.measure.connection import connect
from pipeline.measure.devices.local import LocalDevice
from pipeline.measure.runtimes import InputPort
from pipeline.measure.worker import answer, serve
from pipeline.measure.worker_bench import PACKAGES, TOLD, WARM_UP, Bench, make_inputs, open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime


@dataclass
class Fake:
    """A session without a runtime, which counts how often it infers."""

    outputs: list[NDArray[Any]] = field(default_factory=lambda: [np.ones((1, 2), np.float32)])
    inputs: tuple[InputPort, ...] = (InputPort("image", (1, 2), "float32"),)
    name: Runtime = "onnxruntime"
    version: str = "9"
    options: dict[str, str] = field(default_factory=lambda: {"threads": "1"})
    runs: list[tuple[NDArray[Any], ...]] = field(default_factory=list)

    def run(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Keep the inputs."""
        self.runs.append(inputs)
        return self.outputs


def bench_of(*sessions: Fake) -> Bench:
    """Return a worker in which file i is session i."""
    return Bench(lambda file: sessions[file["number"]])


def described(path: Path, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a request's description of an ONNX file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    plain = {"path": str(path), "sha256": {path.name: digest}, "runtime": "onnxruntime"}
    return {**plain, "threads": 1, "batch": 1, "shapes": {}, **fields}


def ok(bench: Bench, op: str, **arguments: Any) -> Any:  # noqa: ANN401
    """Ask for something that works."""
    found = answer(bench, {"op": op, **arguments})
    assert found.keys() == {"ok"}, found
    return json.loads(json.dumps(found["ok"]))


def test_hello_describes_the_device_and_opens_nothing() -> None:
    """Protocol, Python, versions, machine and what is in force are told before any file is."""
    told = ok(bench_of(), "hello")
    assert told["protocol"] == 1
    assert told["packages"].keys() == set(PACKAGES)
    assert told["packages"]["numpy"] == np.__version__
    assert told["fingerprint"]["architecture"]
    assert told["in_force"].keys() >= {"nice", "affinity"}


def test_a_session_without_a_group_of_its_own_is_told_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a control group schedules the process, the kernel's file of the session is empty."""
    (tmp_path / "autogroup").write_text("")
    monkeypatch.setattr("pipeline.measure.worker_bench.AUTOGROUP", tmp_path / "autogroup")
    assert ok(bench_of(), "hello")["in_force"]["session nice"] is None


def test_check_tells_what_came_out() -> None:
    """Shape, finiteness, range and the numbers themselves are told of every output."""
    first, second = np.array([[1.0, -3.0]], np.float32), np.array([np.inf], np.float32)
    told = ok(bench_of(Fake([first, second])), "check", file={"number": 0}, seed=0)
    assert (told["version"], told["options"]) == ("9", {"threads": "1"})
    assert told["inputs"] == [{"name": "image", "shape": [1, 2], "dtype": "float32"}]
    values = np.frombuffer(base64.b64decode(told["outputs"][0].pop("values")), "<f4")
    assert values.tolist() == [1, -3]
    assert told["outputs"][0] == {"shape": [1, 2], "finite": True, "largest": 3}
    assert told["outputs"][1]["finite"] is False


@pytest.mark.parametrize("size", [0, TOLD, TOLD + 1, 3 * TOLD - 1])
def test_of_large_outputs_a_part_is_told(size: int) -> None:
    """At most so many numbers travel, while range and finiteness are those of all."""
    output = np.zeros(size, np.float32)
    output[1:2] = 7
    told = ok(bench_of(Fake([output])), "check", file={"number": 0}, seed=0)["outputs"][0]
    assert len(base64.b64decode(told["values"])) <= 4 * TOLD
    assert told["largest"] == (7 if size else 0)
    assert told["shape"] == [size]


def test_infer_runs_on_stored_images(tmp_path: Path) -> None:
    """Batch by batch, filled up from the first one; each image's outputs with their digest."""
    images = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "images.npy", images)
    logits, scalar = np.array([[1, 2], [3, 4]], np.float16), np.float32(7)
    session = Fake([logits, scalar], inputs=(InputPort("image", (2, 2), "float32"),))
    bench = bench_of(session)
    ok(bench, "create", subject=0, file={"number": 0}, seed=0)
    told = ok(bench, "infer", subject=0, stored={"image": str(tmp_path / "images.npy")}, start=2)
    np.testing.assert_array_equal(session.runs[-1][0], images[[2, 0]])
    assert [[output["shape"] for output in image] for image in told] == [[[2], []], [[2], []]]
    assert told[1][0]["sha256"] == hashlib.sha256(logits[1].tobytes()).hexdigest()
    assert np.frombuffer(base64.b64decode(told[1][0]["values"]), "<f4").tolist() == [3, 4]


def test_infer_takes_every_input_by_name(tmp_path: Path) -> None:
    """In the order of the network and of its types; other names are refused."""
    np.save(tmp_path / "a.npy", np.arange(3, dtype=np.float32))
    np.save(tmp_path / "b.npy", np.arange(3, dtype=np.float32) + 5)
    session = Fake([np.ones(1, np.float32)], inputs=(InputPort("a", (1,), "float32"), InputPort("b", (1,), "int64")))
    bench = bench_of(session)
    ok(bench, "create", subject=0, file={"number": 0}, seed=0)
    stored = {name: str(tmp_path / f"{name}.npy") for name in ("b", "a")}
    ok(bench, "infer", subject=0, stored=stored, start=1)
    assert [(each.tolist(), each.dtype.name) for each in session.runs[-1]] == [([1], "float32"), ([6], "int64")]
    error = answer(bench, {"op": "infer", "subject": 0, "stored": {"a": stored["a"]}, "start": 0})["error"]
    assert error == {"kind": "InputError", "message": "the network takes a, b; found a"}


def test_block_has_as_many_inferences_as_asked() -> None:
    """Every inference has both clocks, on the inputs that the seed gives."""
    session = Fake()
    bench = bench_of(session)
    created = ok(bench, "create", subject=0, file={"number": 0}, seed=5)
    found = ok(bench, "block", subject=0, inferences=4)
    assert created.keys() == {"load_ns", "first_ns"}
    assert len(found["wall_ns"]) == len(found["cpu_ns"]) == 4
    assert len(session.runs) == 5
    (expected,) = make_inputs(session.inputs, 5)
    assert all(np.array_equal(given, expected) for (given,) in session.runs)


def test_rounds_follow_their_orders() -> None:
    """Blocks come back in the order of their round, each of its subject's size."""
    bench = bench_of(Fake(), Fake())
    for number in (0, 1):
        ok(bench, "create", subject=number, file={"number": number}, seed=0)
    found = ok(bench, "rounds", orders=[[0, 1], [1, 0]], sizes=[3, 5], limit_ns=10**12)
    assert [[len(block["wall_ns"]) for block in blocks] for blocks in found] == [[3, 5], [5, 3]]


def test_at_least_one_round_is_timed() -> None:
    """No time left still gives one round."""
    bench = bench_of(Fake())
    ok(bench, "create", subject=0, file={"number": 0}, seed=0)
    assert len(ok(bench, "rounds", orders=[[0]] * 50, sizes=[2], limit_ns=0)) == 1


def test_count_infers_between_marks() -> None:
    """Without a counter around the process the marks do nothing."""
    session = Fake()
    bench = bench_of(session)
    ok(bench, "create", subject=0, file={"number": 0}, seed=0)
    assert ok(bench, "count", subject=0, repeats=3) == {"repeats": 3}
    assert len(session.runs) == 1 + WARM_UP + 3


def test_released_subject_is_gone() -> None:
    """A block of a subject that was let go of is a fault, told and survived."""
    bench = bench_of(Fake())
    ok(bench, "create", subject=0, file={"number": 0}, seed=0)
    ok(bench, "release")
    error = answer(bench, {"op": "block", "subject": 0, "inferences": 1})["error"]
    assert error == {"kind": "fault", "message": "block: KeyError: 0"}
    assert ok(bench, "conditions").keys() == {"load", "steal", "frequency_mhz", "temperature_c"}
    assert ok(bench, "sleep", seconds=0) is None


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (InputError("no network"), "InputError", "no network"),
        (DeviceError("no room"), "DeviceError", "no room"),
        (RuntimeError("overflow"), "fault", "check: RuntimeError: overflow"),
    ],
)
def test_every_failure_is_told(raised: Exception, kind: str, message: str) -> None:
    """Errors of ours keep their kind, all others become a fault with the operation and the type."""

    def fail(_: Mapping[str, Any]) -> Fake:
        raise raised

    found = answer(Bench(fail), {"op": "check", "file": {}, "seed": 0})
    assert found == {"error": {"kind": kind, "message": message}}


def test_unknown_operation_is_a_fault() -> None:
    """A host that is ahead of the worker is told so."""
    assert answer(bench_of(), {"op": "fly"})["error"]["kind"] == "fault"


def test_serve_answers_line_by_line() -> None:
    """Every request has its line, in order, until the requests end."""
    answers = io.StringIO()
    serve(bench_of(), io.StringIO('{"op": "release"}\n{"op": "fly"}\n{"op": "sleep", "seconds": 0}\n'), answers)
    assert ["ok" in json.loads(line) for line in answers.getvalue().splitlines()] == [True, False, True]


def test_inputs_depend_on_shapes_and_seed_alone() -> None:
    """Names do not matter; whole numbers are zeros and ones; floats keep their width."""
    ports = [InputPort("a", (2, 3), "float16"), InputPort("b", (40,), "int64"), InputPort("c", (1,), "bool")]
    renamed = [InputPort(port.name.upper(), port.shape, port.dtype) for port in ports]
    found, again, other = (make_inputs(each, seed) for each, seed in ((ports, 1), (renamed, 1), (ports, 2)))
    assert [each.dtype.name for each in found] == ["float16", "int64", "bool"]
    assert [each.shape for each in found] == [(2, 3), (40,), (1,)]
    assert set(found[1].tolist()) == {0, 1}
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert not np.array_equal(found[0], other[0])


def test_file_that_is_not_what_was_sent_is_refused(write_onnx: Callable[..., Path]) -> None:
    """A damaged copy is found by its hash, before a runtime sees it."""
    path = write_onnx("net.onnx")
    request = described(path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DeviceError, match=r"net\.onnx differs from the file that was sent"):
        open_file(request)
    assert open_file(described(write_onnx("whole.onnx"))).name == "onnxruntime"


def test_weight_is_the_peak_of_a_process_of_its_own() -> None:
    """A positive number of bytes comes back, and nothing was loaded here."""
    session = Fake()
    bench = bench_of(session)
    assert ok(bench, "weigh", file={"number": 0}, seed=0)["peak_rss_bytes"] > 1_000_000
    assert session.runs == []


@pytest.mark.parametrize("raised", [InputError("no network"), DeviceError("other bytes"), RuntimeError("overflow")])
def test_file_that_cannot_be_weighed_is_left_to_the_check(raised: Exception) -> None:
    """The check says why a file cannot be loaded; weighing only has no number."""

    def fail(_: Mapping[str, Any]) -> Fake:
        raise raised

    assert ok(Bench(fail), "weigh", file={"path": "net.onnx"}, seed=0) == {}


@pytest.mark.parametrize(
    ("ending", "code"),
    [(lambda: os.kill(os.getpid(), signal.SIGKILL), "-9"), (lambda: os._exit(7), "7")],
    ids=["killed", "left"],
)
def test_worker_survives_a_file_that_ends_its_process(ending: Callable[[], None], code: str) -> None:
    """A process that is killed while it loads a file is told with its code, and the worker goes on."""

    def end(_: Mapping[str, Any]) -> Fake:
        ending()
        return Fake()

    bench = Bench(end)
    error = answer(bench, {"op": "weigh", "file": {"path": "big.onnx"}, "seed": 0})["error"]
    assert error["kind"] == "DeviceError"
    assert f"big.onnx: loading it ended the process (code {code})" in error["message"]
    assert ok(bench, "release") is None


def test_memory_that_runs_out_while_weighing_is_told() -> None:
    """An allocation that fails is a file too large for the device."""

    def fail(_: Mapping[str, Any]) -> Fake:
        raise MemoryError

    error = answer(Bench(fail), {"op": "weigh", "file": {"path": "big.onnx"}, "seed": 0})["error"]
    assert "too little memory" in error["message"]


PRINTING = """
import os, sys
from pipeline.measure.worker import main

def opener(file):
    print("a library prints this")
    os.write(1, b"and C code writes that\\n")
    raise ValueError("seen")

main(opener)
"""


def test_what_libraries_print_does_not_disturb_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines on stdout, from Python or from C, end up on stderr."""
    (tmp_path / "printing_worker.py").write_text(PRINTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    connection, _ = connect(LocalDevice(module="printing_worker"))
    with connection, pytest.raises(StageError, match="check: ValueError: seen"):
        connection.request("check", file={}, seed=0)
    assert connection.process.returncode is not None


HANG = """
import os, sys, ctypes
from pipeline.measure import worker
lock = ctypes.create_string_buffer(64)
def hang(_file):
    print(os.getpid(), file=sys.stderr, flush=True)
    for _ in range(2):
        ctypes.{library}(None).pthread_mutex_lock(lock)
worker.ENDING_S = 0.1
worker.main(hang)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
child.stdin.write(b'{"op": "check", "file": {}, "seed": 0}\\n')
child.stdin.flush()
child.wait()
"""


@pytest.mark.parametrize("library", ["CDLL", "PyDLL"])
def test_a_worker_that_hangs_ends_with_its_parent(library: str) -> None:
    """Also where native code holds Python's lock (PyDLL), and whatever ended the parent."""
    command = [sys.executable, "-c", PARENT, HANG.replace("{library}", library)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        assert int(parent.stderr.readline())
        parent.kill()
        assert parent.stderr.read() == ""  # the end of the pipe: the worker, which had the other end of it, is gone


def test_a_worker_that_hangs_ends_with_its_requests() -> None:
    """On a device it is the end of the line that is seen."""
    command = [sys.executable, "-c", HANG.replace("{library}", "CDLL")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write('{"op": "check", "file": {}, "seed": 0}\n')
        worker.stdin.flush()
        worker.stderr.readline()
        worker.stdin.close()
        assert worker.wait(60) == 0


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_worker_that_waits_for_requests_can_be_weighed(write_onnx: Callable[..., Path], runtime: str) -> None:
    """The fork that loads the runtime is made while this side keeps the worker's stdin open."""
    connection, _ = connect(LocalDevice())
    with connection:
        found = connection.request(
            "weigh", patience_s=60, file=described(write_onnx("net.onnx"), runtime=runtime), seed=0
        )
    assert found["peak_rss_bytes"] > 1_000_000
