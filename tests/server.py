"""Runs the command in children of one process that has loaded and used every library: a child starts in no time.

Reads lines of JSON from standard input (argv, cwd, environment, fault, output), answers each with {"pid": n} when the
child has started and, whenever one has ended, with {"pid": n, "code": c}; c is negative for a signal.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from unittest.mock import patch

TICK_S = 0.01
CORES = sorted(os.sched_getaffinity(0))


def child(job: dict[str, object]) -> int:
    """Be the command, and return its exit code."""
    from pipeline import cli  # noqa: PLC0415 - loaded already
    from tests.torture import faults  # noqa: PLC0415

    os.setsid()
    os.sched_setaffinity(0, CORES)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(str(job["cwd"]))
    os.environ.update(job["environment"])  # type: ignore[call-overload]
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(f"{job['output']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["secateur", *job["argv"]]  # type: ignore[misc]
    for name, number in job.get("fault", {}).items():  # type: ignore[attr-defined]
        getattr(faults, name)(number)
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - what the interpreter would do
        traceback.print_exc()
        return 1
    return 0


def start(job: dict[str, object]) -> int:
    """Fork a child for a job."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        code = child(job)
        with suppress(ValueError):  # code of the user's may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(code)


def serve() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warm(sys.argv[1])
    gc.freeze()
    print(json.dumps({"ready": True}), file=answers)
    buffer, running = b"", set[int]()
    while True:
        ready, _, _ = select.select([0], [], [], TICK_S if running else None)
        if ready:
            more = os.read(0, 1 << 16)
            if not more:
                return
            *lines, buffer = (buffer + more).split(b"\n")
            for line in lines:
                pid = start(json.loads(line))
                running.add(pid)
                print(json.dumps({"pid": pid}), file=answers)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), file=answers)


def warm(folder: str) -> None:
    """Run the recipe in a folder once in this process, so that its children find everything loaded."""
    import openvino  # noqa: F401, PLC0415 - after the cores are chosen

    from pipeline import cli  # noqa: PLC0415
    from tests.exporter import keep_tables  # noqa: PLC0415

    keep_tables()
    os.chdir(folder)
    os.environ["SECATEUR_STORE"] = str(Path(folder) / "store")
    sys.argv = ["secateur", "run", "toy.yaml"]
    try:
        with patch.object(cli, "ended_in_time", nullcontext):  # this process goes on, with idle threads of libraries
            cli.main()
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    # One core, and so no thread of any library: a process that forks has none. Its children have all cores again.
    os.sched_setaffinity(0, CORES[:1])
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", COLUMNS="140")
    serve()
