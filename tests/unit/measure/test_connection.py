"""The host's side of the worker, against programs that misbehave in every way: each ends as one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.errors import DeviceError, InputError, SecateurError, StageError
from pipeline.measure.clock import Readings
from pipeline.measure.connection import Connection, connect
from pipeline.measure.harness import WorkerRunner
from pipeline.measure.subjects import OpenSubject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ECHO = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "hello":
        print(json.dumps({"ok": {"protocol": 1}}), flush=True)
    else:
        print(json.dumps({"ok": request}), flush=True)
"""


@dataclass(frozen=True)
class Scripted:
    """A device whose worker is a short program."""

    script: str
    url: str = "ssh://board"
    emulated: bool = False
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def push(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Leave the files where they are."""
        return {name: str(path) for name, path in files.items()}

    def start(self) -> subprocess.Popen[bytes]:
        """Run the program."""
        return self.run("-c", self.script)

    def run(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python."""
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, script, *arguments], stdin=pipe, stdout=pipe, stderr=pipe)
        self.started.append(process)
        return process


def require_gone(device: Scripted) -> None:
    """Assert that the worker has ended and was waited for, and that none of its pipes is open."""
    for process in device.started:
        assert process.returncode is not None
        assert all(stream.closed for stream in (process.stdin, process.stdout, process.stderr) if stream)


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    """Every reader of a pipe ends with its worker."""
    before = threading.active_count()
    yield
    assert threading.active_count() <= before


def refused(script: str, **options: Any) -> str:  # noqa: ANN401
    """Return the text of the device error that a request to this program ends in."""
    device = Scripted(script)
    with Connection(device) as connection, pytest.raises(DeviceError) as caught:
        connection.request("check", **options)
    require_gone(device)
    return str(caught.value)


def test_request_gets_its_answer_and_the_worker_ends_with_the_connection() -> None:
    """Arguments arrive as they were given, and nothing is left running."""
    device = Scripted(ECHO)
    with Connection(device) as connection:
        assert connection.request("block", subject=1, path="a b'$(c)") == {
            "op": "block",
            "subject": 1,
            "path": "a b'$(c)",
        }
    require_gone(device)
    assert device.started[0].returncode == 0


def test_connect_says_hello() -> None:
    """The worker's own description comes with the connection."""
    connection, told = connect(Scripted(ECHO))
    with connection:
        assert told == {"protocol": 1}


def test_other_protocol_is_refused() -> None:
    """A worker of another version is told apart, and ended."""
    device = Scripted(ECHO.replace('"protocol": 1', '"protocol": 99'))
    with pytest.raises(DeviceError, match="ssh://board: its worker speaks protocol 99, expected 1"):
        connect(device)
    require_gone(device)


@pytest.mark.parametrize(
    "line", ["Last login: Monday", "[1, 2]", '"ok"', "42", '{"error": "bad"}', '{"neither": 1}', "{", "\x00\xff"]
)
def test_what_is_no_answer_is_shown(line: str) -> None:
    """A login shell that prints, or another program, is told with what it said."""
    text = refused(f"import sys\nsys.stdin.readline()\nprint({line!r}, flush=True)\nsys.stdin.readline()")
    assert "where the worker's answer to check was expected" in text
    assert text.startswith("ssh://board: found ")


def test_long_garbage_is_shown_in_part() -> None:
    """A megabyte of nonsense does not fill the screen."""
    assert len(refused("import sys\nsys.stdin.readline()\nprint('x' * 10**6, flush=True)\nsys.stdin.readline()")) < 500


def test_worker_that_dies_at_once_is_quoted() -> None:
    """Its exit code and last words say what is missing there, whether or not the request could still be written."""
    device = Scripted("import sys; sys.exit('python3: No module named numpy')")
    connection = Connection(device)
    with connection:
        for _ in range(2):
            with pytest.raises(DeviceError) as caught:
                connection.request("hello")
            assert "ended during hello (exit code 1):\n  python3: No module named numpy" in str(caught.value)
    require_gone(device)


def test_only_the_last_words_are_quoted() -> None:
    """Of many lines on stderr the last ones are shown."""
    text = refused("import sys\nfor i in range(5000): print('line', i, file=sys.stderr)\nsys.exit(3)")
    assert "(exit code 3)" in text
    assert "line 4999" in text
    assert "line 4994\n" not in text


def test_worker_without_words_is_told_too() -> None:
    """There may be nothing to quote."""
    assert "(exit code 9):\n  it printed nothing" in refused("import os; os._exit(9)")


def test_connect_ends_a_worker_that_does_not_say_hello() -> None:
    """Nothing is left of a connection that was not made."""
    device = Scripted("print('welcome', flush=True)\nimport sys; sys.stdin.read()")
    with pytest.raises(DeviceError, match="found 'welcome'"):
        connect(device)
    require_gone(device)


def test_worker_that_never_answers_is_given_up_and_ended() -> None:
    """Patience ends, the worker is killed, and the next request does not wait for the late answer."""
    device = Scripted("import sys, time\nsys.stdin.readline()\ntime.sleep(600)")
    connection = Connection(device)
    with connection:
        with pytest.raises(DeviceError, match="ssh://board: no answer to check within 0 s; is the device alive"):
            connection.request("check", patience_s=0.01)
        with pytest.raises(DeviceError, match="the worker ended during release"):
            connection.request("release")
    require_gone(device)
    assert device.started[0].returncode == -9


def test_worker_that_does_not_read_is_ended() -> None:
    """Closing a connection does not depend on the worker's good will."""
    device = Scripted("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)")
    with Connection(device):
        pass
    require_gone(device)
    assert device.started[0].returncode == -9


def test_interruption_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption no answer is waited for, and the interruption goes on."""
    device = Scripted("import time\ntime.sleep(600)")

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    with Connection(device) as connection:
        monkeypatch.setattr(connection, "_line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            connection.request("check")
        assert connection.process.poll() is not None
    require_gone(device)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("InputError", InputError), ("DeviceError", DeviceError), ("fault", StageError), ("MemoryError", StageError)],
)
def test_errors_of_the_worker_keep_their_kind(kind: str, expected: type[SecateurError]) -> None:
    """What was wrong with a file is an input error here too; what a runtime raised is a stage's failure."""
    answer = json.dumps({"error": {"kind": kind, "message": "these words"}})
    device = Scripted(f"import sys\nfor line in sys.stdin: print({answer!r}, flush=True)")
    with Connection(device) as connection, pytest.raises(SecateurError, match=r"^these words$") as caught:
        connection.request("check")
    assert type(caught.value) is expected
    require_gone(device)


def test_worker_that_is_killed_in_the_middle_is_told() -> None:
    """A board that loses power, or runs out of memory, ends the request that was under way and all later ones."""
    device = Scripted("import os, sys\nsys.stdin.readline()\nprint('{\"ok\": 1}', flush=True)\nos.kill(os.getpid(), 9)")
    with Connection(device) as connection:
        assert connection.request("create") == 1
        for op in ("rounds", "release"):
            with pytest.raises(DeviceError, match=rf"the worker ended during {op} \(exit code -9\)"):
                connection.request(op)
    require_gone(device)


def test_half_an_answer_is_no_answer() -> None:
    """A line that was cut off by the end is shown as what it is."""
    assert "found '{\"ok\": [1,'" in refused("import sys\nsys.stdin.readline()\nprint('{\"ok\": [1,', end='')")


def test_large_requests_and_answers_pass() -> None:
    """Lines far longer than a pipe holds do not block either side, and neither does what goes to stderr."""
    device = Scripted("import sys\nsys.stderr.write('e' * 10**6 + '\\n')" + ECHO)
    with Connection(device) as connection:
        assert len(connection.request("echo", text="x" * 10**6)["text"]) == 10**6
    require_gone(device)


SUBJECT = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    with open(os.environ["LOG"], "a") as log:
        log.write(json.dumps([NAME, request["op"], request.get("subject")]) + "\\n")
    block = {"wall_ns": [1], "cpu_ns": [1], "preemptions": 0, "frequency_mhz": None}
    answers = {"create": {"load_ns": 1, "first_ns": 1}, "block": block, "conditions": {"load": 0.5}}
    print(json.dumps({"ok": answers.get(request["op"])}), flush=True)
"""


def opened(connection: Connection) -> OpenSubject:
    """Return a subject that lives behind this connection."""
    return OpenSubject(connection, {}, {}, {}, 0, None, None)


def test_two_workers_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker for each side, every block is asked of its own, in the round's order."""
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    devices = [Scripted(f"NAME = {name!r}\n{SUBJECT}") for name in "ab"]
    with Connection(devices[0]) as first, Connection(devices[1]) as second:
        runner = WorkerRunner([opened(first), opened(second)], pause_ns=0, seed=0)
        assert runner.create(0).load_ns == runner.create(1).load_ns == 1
        found = runner.rounds([[0, 1], [1, 0]], [3, 3], limit_ns=10**12)
        runner.rounds([[1, 0]] * 5, [3, 3], limit_ns=0)
        assert runner.conditions().load == 0.5
        runner.release()
    assert found == [[Readings([1], [1], 0)] * 2] * 2  # type: ignore[arg-type]
    asked = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    blocks = [(name, subject) for name, op, subject in asked if op == "block"]
    assert blocks == [("a", 0), ("b", 1), ("b", 1), ("a", 0), ("b", 1), ("a", 0)]
    assert [name for name, op, _ in asked if op == "release"] == ["a", "b"]
    assert [name for name, op, _ in asked if op == "conditions"] == ["a"]


def test_worker_that_is_gone_is_not_asked_to_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers the one that is left releases its sessions."""
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    devices = [Scripted("import os; os._exit(1)"), Scripted(f"NAME = 'b'\n{SUBJECT}")]
    with Connection(devices[0]) as first, Connection(devices[1]) as second:
        runner = WorkerRunner([opened(first), opened(second)], pause_ns=0, seed=0)
        with pytest.raises(DeviceError, match="ended during create"):
            runner.create(0)
        runner.release()
    assert [json.loads(line)[:2] for line in (tmp_path / "log").read_text().splitlines()] == [["b", "release"]]
