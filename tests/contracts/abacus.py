"""A made-up runtime, `abacus`, and its form, `beads`: what a third runtime needs, and the worker that knows of it.

Its file is an ONNX file whose bytes are turned round, so that no other runtime reads it by mistake.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.core import runtimes
from pipeline.core.stage import Context, Outcome, Stage
from pipeline.measure.runtimes import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.core.artifact import Artifact, Form
    from pipeline.measure.runtimes import InputPort, RuntimeSettings, Session

FILE = "model.beads"
FORM = runtimes.FormFacts((FILE,), FILE, cost=f"{__name__}:cost")
RUNTIME = runtimes.RuntimeFacts(
    package="numpy", reads=("beads",), files="beads (.beads)", adapter=__name__, repeatability=0.0
)


def register(forms: dict[str, runtimes.FormFacts], table: dict[str, runtimes.RuntimeFacts]) -> None:
    """Put both into the tables."""
    forms["beads"] = FORM
    table["abacus"] = RUNTIME


@dataclass
class Abacus:
    """A session that counts how many there were."""

    inner: Session
    name: str = "abacus"
    version: str = "1"
    opened: ClassVar[int] = 0

    @property
    def options(self) -> Mapping[str, str]:
        """None of its own."""
        return {}

    @property
    def inputs(self) -> tuple[InputPort, ...]:
        """Those of the file."""
        return self.inner.inputs

    def run(self, *inputs: Any) -> list[Any]:  # noqa: ANN401 - arrays
        """Infer."""
        return self.inner.run(*inputs)


def open_session(path: Path, settings: RuntimeSettings) -> Abacus:
    """Read a file of beads."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(path.read_bytes()[::-1])
        Abacus.opened += 1
        return Abacus(onnxruntime.open_session(file, settings))


def cost(path: Path) -> Any:  # noqa: ANN401 - a Cost
    """Count the operations of the network in the file."""
    from pipeline.analysis.cost import onnx_cost  # noqa: PLC0415 - loads its libraries

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(path.read_bytes()[::-1])
        return onnx_cost(file)


class ToBeads(Stage):
    """From ONNX to beads."""

    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    kind: str = "beads"

    @property
    def consumes(self) -> frozenset[Form]:
        """ONNX files."""
        return frozenset({"onnx"})

    def produces(self, given: Form) -> Form:  # noqa: ARG002
        """Return beads."""
        return "beads"

    def run(self, given: Artifact, context: Context) -> Outcome:
        """Turn the bytes round."""
        (context.folder / FILE).write_bytes(given.file.read_bytes()[::-1])
        return Outcome("beads", given.inputs, given.outputs)


if __name__ == "__main__":
    from pipeline.measure.worker import main

    register(runtimes.FORMS, runtimes.RUNTIMES)
    main()
