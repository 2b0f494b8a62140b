"""Bundles, made once, and what processors compute on their samples: two at a time, each asked as a user asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tests.arm.recipes import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

SECONDS_AT_MOST = 900


class Question(NamedTuple):
    """A bundle by its recipe's name, what runs it, and where."""

    name: str
    runtime: str
    device: str


@dataclass(frozen=True)
class Answer:
    """What `secateur verify --device` answered, and its outputs compared with samples/expected.json once more."""

    question: Question
    code: int
    found: dict[str, Any]
    outputs: int = 0
    same_bits: int = 0
    same_classes: int = 0
    max_abs: float = 0.0
    tolerance: float = 0.0

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        found = self.found
        version = f"{self.question.runtime} {found['version']}".strip()
        told = "verified" if found["verified"] else f"exit code {self.code}"
        numbers = (str(self.outputs), str(self.same_bits), f"{self.max_abs:.3g}", f"{self.tolerance:.3g}")
        if not self.outputs:
            numbers, told = ("-",) * 4, "cannot be loaded there"
        kind = found["device"].partition("://")[0]
        device = self.question.device if kind == "qemu" else f"{kind}, processor {found['machine']['cpu_model']}"
        return (self.question.name, version, device, *numbers, told)


COLUMNS = ("bundle", "runtime", "device", "outputs", "same bits", "largest difference", "tolerance", "outcome")


class Lab:
    """Makes bundles and asks devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: list[Answer] = []
        self._pool = ThreadPoolExecutor(max_workers=os.cpu_count())
        self._one_at_a_time = threading.Lock()
        self._asked: dict[Question, Future[Answer]] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR")}
        self.environment = {
            **kept,
            "SECATEUR_STORE": str(folder / "store"),
            "SECATEUR_DEVICES": str(folder / "devices.json"),
        }

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `secateur` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=self.folder,
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS_AT_MOST,
        )

    def bundle(self, name: str) -> Path:
        """Return the folder of a recipe's bundle, running the recipe the first time; its validation images are used."""
        run = self.folder / name.replace(" ", "-")
        with self._one_at_a_time:
            if not (run / "bundle").is_dir():
                recipe = self.folder / f"{run.name}.yaml"
                recipe.write_text(RECIPES[name].text)
                done = self.command("run", str(recipe), "--out", str(run), "--no-test")
                assert done.returncode == 0, done.stderr
        return run / "bundle"

    def ask(self, question: Question) -> Future[Answer]:
        """Let a device run a bundle's samples; the same question is asked once."""
        if question not in self._asked:
            self._asked[question] = self._pool.submit(self._answer, question)
        return self._asked[question]

    def verify(self, bundle: Path, question: Question) -> Answer:
        """Verify a bundle's folder on a device, now."""
        answer = self._compared(bundle, question)
        self.answers.append(answer)
        return answer

    def _compared(self, bundle: Path, question: Question) -> Answer:
        done = self.command("verify", str(bundle), "--device", question.device, "--runtime", question.runtime, "--json")
        assert done.stdout, done.stderr
        found = json.loads(done.stdout)
        if not found["outputs"]:
            return Answer(question, done.returncode, found)
        content = json.loads((bundle / "samples" / "expected.json").read_text())
        expected = np.array([each["outputs"][question.runtime] for each in content["samples"]], np.float32)
        computed = np.array([found["outputs"][each["file"]] for each in content["samples"]], np.float32)
        return Answer(
            question,
            done.returncode,
            found,
            outputs=expected.size,
            same_bits=int((expected.view(np.uint32) == computed.view(np.uint32)).sum()),
            same_classes=int((expected.argmax(axis=1) == computed.argmax(axis=1)).sum()),
            max_abs=float(abs(expected.astype(np.float64) - computed).max()),
            tolerance=content["tolerance"][question.runtime]["max_abs"],
        )

    def table(self) -> list[str]:
        """Return what was answered, a line for each question, under a head."""
        rows = [COLUMNS, *sorted(answer.cells for answer in self.answers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

    def close(self) -> None:
        """Let go of what nobody waits for."""
        self._pool.shutdown(cancel_futures=True)

    def _answer(self, question: Question) -> Answer:
        return self.verify(self.bundle(question.name), question)
