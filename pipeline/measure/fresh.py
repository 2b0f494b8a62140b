"""Measures in a new process that has loaded nothing but the runtimes.

A process that has just trained a network is no place to time one: its heap is large and scattered, and its thread pools
wake up. After training, the same int8 file ran 1.3 times as long as in a new process.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from typing import TYPE_CHECKING

from pipeline.core.errors import SecateurError, StageError
from pipeline.core.measurement import Measurement
from pipeline.measure.harness import measure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from pipeline.core.stage import Progress
    from pipeline.measure.harness import Subject

#: The parent wakes up this often to draw its progress and to notice an interruption.
POLL_S = 0.5


def measure_afresh(
    subjects: Sequence[Subject], *, threads: int, batch: int, budget_s: float, seed: int, progress: Progress
) -> Measurement:
    """Do what `harness.measure` does, in a process of its own. Subjects are files, or networks that can be sent there.

    Raises:
        InputError: as `harness.measure`.
        StageError: as `harness.measure`, or the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, subjects, threads, batch, budget_s, seed), daemon=True)
    process.start()
    sender.close()
    began = time.monotonic()
    try:
        while not receiver.poll(POLL_S):
            spent = time.monotonic() - began
            progress.update(min(spent, budget_s), budget_s, "measuring all files in turns")
        answer = receiver.recv()
    except EOFError as error:
        process.join()
        message = f"the measuring process ended with exit code {process.exitcode} and no answer: too little memory?"
        raise StageError(message) from error
    finally:
        process.kill()
        process.join()
    if isinstance(answer, SecateurError):
        raise answer
    return Measurement.model_validate_json(answer)


def _measure(
    sender: Connection, subjects: Sequence[Subject], threads: int, batch: int, budget_s: float, seed: int
) -> None:
    """Measure and send the result as JSON, or the error. An interruption is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = measure(subjects, threads=threads, batch=batch, budget_s=budget_s, seed=seed)
    except SecateurError as error:
        sender.send(error)
    else:
        sender.send(found.model_dump_json())
