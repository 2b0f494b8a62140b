"""The worker: answers the host's requests, one JSON object per line on stdin, one answer per line on stdout.

It runs on the device that is measured, needs Python, numpy and a runtime there, and decides nothing: order, sizes and
statistics are the host's. A whole series of rounds is one request, so that no network lies inside what is timed.

A request is `{"op": ..., ...}`, its answer `{"ok": ...}` or `{"error": {"kind": ..., "message": ...}}`. What libraries
print goes to stderr: stdout has answers alone. The worker ends when its stdin does, or its parent, in the middle of a
request too: a runtime may hang on a damaged file, and nobody would be there to end it.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import SecateurError
from pipeline.measure.worker_bench import Bench, end_with_parent, open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TextIO

    from pipeline.measure.runtimes import Session


#: How long a worker goes on after the end of its requests.
ENDING_S = 30.0


def serve(bench: Bench, requests: Iterable[str], answers: TextIO) -> None:
    """Answer every request until there are no more."""
    for line in requests:
        print(json.dumps(answer(bench, json.loads(line)), allow_nan=False), file=answers, flush=True)


def answer(bench: Bench, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what one request asks for. Every failure is told to the host, which decides what it means."""
    arguments = {name: value for name, value in request.items() if name != "op"}
    try:
        return {"ok": bench.OPERATIONS[request["op"]](bench, **arguments)}
    except SecateurError as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises goes to the host, where it ends the measurement
        return {"error": {"kind": "fault", "message": f"{request['op']}: {type(error).__name__}: {error}"}}


def main(opener: Callable[[Mapping[str, Any]], Session] = open_file) -> None:
    """Serve on this process's stdin and stdout. `opener` loads the file that a request describes."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    end_with_parent()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        _end_after(sys.stdin.fileno())
        serve(Bench(opener), sys.stdin, answers)


def _end_after(descriptor: int) -> None:
    """End this process a while after the other side of a pipe is gone, whatever it is doing then.

    A thread waits for that and reads nothing: whoever holds a lock of Python's while this process forks, to be weighed,
    would hold it for ever in the fork.
    """

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLHUP | getattr(select, "POLLRDHUP", 0))
        poll.poll()
        time.sleep(ENDING_S)  # for requests that came before the end
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
