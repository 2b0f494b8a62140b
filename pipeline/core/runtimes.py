"""Forms that a network has as files, and runtimes that read them: the one table that everything else asks.

A runtime is added by a row here and its adapter in `pipeline/measure/runtimes/`; see CONTRIBUTING.md. This file goes to
devices with the worker and imports the standard library alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class FormFacts:
    """What a form consists of.

    `files` are its payload, in a fixed order: digests are taken over these and nothing else. `main` is the one that a
    runtime loads. `cost` names the function that counts its operations, as module:function, `ports` the one that
    returns its inputs and outputs; a form without them has no runtime and is judged on its export. `weights` names the
    one that returns its weights.
    """

    files: tuple[str, ...]
    main: str
    cost: str = ""
    ports: str = ""
    weights: str = ""

    @property
    def suffix(self) -> str:
        """How the main file's name ends."""
        return PurePath(self.main).suffix


@dataclass(frozen=True)
class RuntimeFacts:
    """What a runtime reads and how it is reached.

    `package` is the distribution whose version counts. `reads` are forms, the preferred one first. `adapter` names the
    module with `open_session(path, settings)`, `profiler` the one with `profile(file, feed, runs, threads)`. `files` is
    for messages. One that `ships` is put into bundles and onto devices. `repeatability` is the relative difference of
    two counts of instructions of the same inference. `zeros` says what it makes of weights that are zero.
    """

    package: str
    reads: tuple[str, ...]
    files: str
    adapter: str = ""
    profiler: str = ""
    ships: bool = True
    repeatability: float = 0.002
    zeros: str = ""


#: How devices are written beside `local`, and one that computes without time; `pipeline.measure.devices` opens them.
BOARDS, EMULATED = "ssh://user@host:port, adb://serial", "qemu://cpu"
#: By name, in the order in which exports lead from one to the next.
FORMS: dict[str, FormFacts] = {
    "torch": FormFacts(("definition.py", "network.json", "weights.safetensors"), "network.json"),
    "onnx": FormFacts(
        ("model.onnx",),
        "model.onnx",
        cost="pipeline.analysis.cost:onnx_cost",
        ports="pipeline.onnx_graph.file:onnx_ports",
        weights="pipeline.analysis.stored_weights:onnx_weights",
    ),
    "openvino": FormFacts(
        ("model.xml", "model.bin"),
        "model.xml",
        cost="pipeline.analysis.cost:openvino_cost",
        ports="pipeline.export.openvino:openvino_ports",
        weights="pipeline.analysis.stored_weights:openvino_weights",
    ),
}
#: By name; the first one that reads a form is its own, where nothing else is asked for.
RUNTIMES: dict[str, RuntimeFacts] = {
    "onnxruntime": RuntimeFacts(
        package="onnxruntime",
        reads=("onnx",),
        files="an exported network (.onnx)",
        adapter="pipeline.measure.runtimes.onnxruntime",
        profiler="pipeline.analysis.onnxruntime_times",
        repeatability=0.001,
        zeros="onnxruntime (1.31) has no kernels for sparse weights, and makes sparse tensors dense as it loads them",
    ),
    "openvino": RuntimeFacts(
        package="openvino",
        reads=("openvino", "onnx"),
        files="an exported network (.onnx, or .xml beside its .bin)",
        adapter="pipeline.measure.runtimes.openvino",
        profiler="pipeline.analysis.openvino_times",
        zeros="OpenVINO (2026.4) uses zeros only on processors with AMX, in int8 matrix products whose sizes are "
        "multiples of 64, and where CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE is set",
    ),
    "torch": RuntimeFacts(
        package="torch",
        reads=("torch",),
        files="the folder of a torch network, such as runs/demo/stages/01-prune",
        zeros="torch (2.13) multiplies by zeros as by any other weight",
        ships=False,
    ),
}
DEFAULT_RUNTIME = "onnxruntime"
#: The form that a network without a runtime of its own is exported to when it is judged.
_JUDGED_FORM = "onnx"


def exported_forms() -> tuple[str, ...]:
    """Return the forms that are exported files."""
    return tuple(name for name, facts in FORMS.items() if facts.cost)


def shipping_runtimes() -> tuple[str, ...]:
    """Return the runtimes that run exported files on a device."""
    return tuple(name for name, facts in RUNTIMES.items() if facts.ships)


def runtime_for(forms: str | Iterable[str], wanted: str) -> str:
    """Return the runtime that files of these forms are run in: `wanted` where it reads them all, else their own.

    Raises LookupError when no runtime reads them all.
    """
    needed = {forms} if isinstance(forms, str) else {*forms}
    found = (name for name in (wanted, *RUNTIMES) if needed <= {*RUNTIMES[name].reads})
    runtime = next(found, None)
    if runtime is None:
        raise LookupError(f"no runtime reads {' and '.join(sorted(needed))}")
    return runtime


def judged_form(form: str) -> str:
    """Return the form of the file that stands for a network of this form."""
    return form if FORMS[form].cost else _JUDGED_FORM


def last_readable(forms: Iterable[str], wanted: str) -> int:
    """Return the index of the last form whose file the wanted runtime reads; torch reads none: then the default does.

    Raises LookupError when it reads none of them.
    """
    runtime = wanted if RUNTIMES[wanted].ships else DEFAULT_RUNTIME
    found = [index for index, form in enumerate(forms) if judged_form(form) in RUNTIMES[runtime].reads]
    if not found:
        raise LookupError(f"{runtime} reads {' and '.join(RUNTIMES[runtime].reads)}")
    return found[-1]


def form_of(path: PurePath) -> str | None:
    """Return the exported form of a file by the ending of its name; None for any other."""
    return next((name for name in exported_forms() if FORMS[name].suffix == path.suffix), None)


def load_reference(reference: str) -> Any:  # noqa: ANN401 - a module, or what stands behind the colon
    """Import what the table names as module or module:name."""
    module, _, name = reference.partition(":")
    found = import_module(module)
    return getattr(found, name) if name else found
