# SPDX-License-Identifier: Apache-2.0
"""Run a bundle's network and its task on the samples, and compare with what is expected of both.

The network is given the inputs that lie beside each sample. Every output has a tolerance of its own. Then the task's
code makes these inputs from the sample and decodes the expected outputs, which has to give what is expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import infer
from ..infer import Rejected
from ..self_test import EXPECTED, TINY, WIDEST, WRONG_OUTPUTS, Failed, check_inside, machine, notes, number, onnx_bytes
from .answers import NEAR, SAME, first_difference, load_arrays, prediction_arrays
from .network import TaskNetwork
from .task_code import FACTS, TaskCode, load_facts, load_task_code, raw_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from pipeline.bundle.on_device.verify import Verification

    Arrays = Mapping[str, NDArray[Any]]

FILES = ("file", "inputs", "outputs", "prediction")


class SampleArrays(NamedTuple):
    """A sample's name, its raw value, the network's inputs, the outputs expected in one runtime, and the prediction."""

    name: str
    raw: Arrays
    inputs: Arrays
    outputs: Arrays
    prediction: Arrays


@dataclass(frozen=True)
class ExpectedOutputs:
    """The samples of expected.json in one runtime, and how far each output may be from that expected."""

    samples: Sequence[SampleArrays]
    allowed: Mapping[str, float]
    exact: bool


def run(
    folder: Path,
    manifest: Mapping[str, Any],
    content: Mapping[str, Any],
    runtime: str,
    threads: int,
    found: Verification,
    code: ModuleType | None = None,  # noqa: ARG001 - infer.py, as for images
) -> str:
    """Run the samples of expected.json (`content`) and fill `found`; return what was found in a line. Raises Failed.

    A bundle's own file is run from beside this program alone, so that a program which did not come with it runs none.
    """
    facts, beside = load_facts(folder), Path(__file__).resolve().parents[2]
    own = beside == Path(folder).resolve()
    task = load_task_code(beside, facts) if own or "module" in facts["code"] else None
    return run_samples(folder, manifest, content, Conditions(runtime, threads, task), found)


@dataclass(frozen=True)
class Conditions:
    """How samples are run; without the task's code the network alone."""

    runtime: str
    threads: int
    task: TaskCode | None


def run_samples(
    folder: Path,
    manifest: Mapping[str, Any],
    content: Mapping[str, Any],
    wanted: Conditions,
    found: Verification,
) -> str:
    """Run the samples as `run` does, with the task's code that is given."""
    facts = load_facts(folder)
    expected = read_samples(folder, manifest, content, facts, wanted.runtime)
    model = manifest["main"][wanted.runtime]
    if ".onnx" in model:
        check_inside(onnx_bytes(Path(folder), model, infer), model)
    network = TaskNetwork(folder, facts, wanted.runtime, wanted.threads)
    found.runtime, found.version, found.machine = wanted.runtime, network.version, machine()
    found.notes += notes(manifest, found)
    for sample in expected.samples:
        network.check_inputs(sample.inputs, sample.name)
    computed = _computed(network, expected.samples)
    for sample, outputs in zip(expected.samples, computed):
        found.passed("outputs", f"{sample.name}: {compared(sample, outputs, expected, found.differences)}")
    found.max_abs = max(found.differences.values())
    if wanted.task is None:
        found.notes.append("the task's own code was not run: verify.py of the bundle runs it")
    else:
        _check_task(wanted.task, facts, expected, computed, found)
    where = f"{len(expected.samples)} samples in {network.runtime} {network.version}"
    return f"{where}: largest difference {found.max_abs:.3g}, allowed {max(expected.allowed.values()):.3g} at most"


def read_samples(
    folder: Path, manifest: Mapping[str, Any], content: Mapping[str, Any], facts: Mapping[str, Any], runtime: str
) -> ExpectedOutputs:
    """Return what expected.json and the files that it names say. Raises Failed where that is not usable."""
    names = facts["outputs"]
    try:
        files = [{key: str(each[key]) for key in FILES} for each in content["samples"]]
        allowed = {name: number(content["tolerance"][runtime][name]["max_abs"]) for name in names}
        exact = content["exact"][runtime]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Failed(f"{EXPECTED}: something for {runtime} is missing or malformed: {error!r}") from error
    for name in (each for sample in files for each in sample.values()):
        if name not in manifest["files"]:
            raise Failed(f"{EXPECTED}: {name!a} is not a file of the bundle")
    if not files or not names or not isinstance(exact, bool):
        raise Failed(f"{EXPECTED}: there are no samples or no outputs, or `exact` is neither true nor false")
    samples = [_sample(Path(folder), each, names, runtime) for each in files]
    for name, most in allowed.items():
        widest = max(TINY, WIDEST * max(_largest(sample.outputs[name]) for sample in samples))
        if not 0 <= most <= widest:
            raise Failed(f"{EXPECTED}: the tolerance of {name} in {runtime} is {most:.3g}, allowed: 0 to {widest:.3g}")
    return ExpectedOutputs(samples, dict.fromkeys(allowed, 0.0) if exact else allowed, exact)


def _sample(folder: Path, files: Mapping[str, str], names: Sequence[str], runtime: str) -> SampleArrays:
    raw, inputs, stored, prediction = (load_arrays(folder / files[key]) for key in FILES)
    outputs = {name: stored.get(f"{runtime}.{name}") for name in names}
    for name, values in outputs.items():
        if values is None or values.dtype.kind not in "biuf" or not values.size or not np.isfinite(values).all():
            raise Failed(f"{files['outputs']}: {name} in {runtime} is missing, or has no numbers, or not finite ones")
    return SampleArrays(
        files["file"], raw, inputs, {name: np.asarray(each) for name, each in outputs.items()}, prediction
    )


def _largest(values: NDArray[Any]) -> float:
    return float(np.abs(values.astype(np.float64)).max())


def _computed(network: TaskNetwork, samples: Sequence[SampleArrays]) -> list[dict[str, NDArray[Any]]]:
    try:
        return network.outputs([sample.inputs for sample in samples])
    except Rejected:
        raise
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise Failed(f"the samples cannot be run in {network.runtime}: {text}", WRONG_OUTPUTS) from error


def compared(sample: SampleArrays, computed: Arrays, expected: ExpectedOutputs, differences: dict[str, float]) -> str:
    """Compare a sample's outputs with those expected, and say how many have the same bits. Raises Failed."""
    total = same = 0
    for name, wanted in sample.outputs.items():
        where, other = f"{sample.name}: its output {name}", computed[name]
        if other.shape != wanted.shape or other.dtype != wanted.dtype:
            kinds = [f"{each.dtype.name} {list(each.shape)}" for each in (other, wanted)]
            raise Failed(f"{where} is {kinds[0]}, expected {kinds[1]}", WRONG_OUTPUTS)
        if not np.isfinite(other).all():
            raise Failed(f"{where} is not finite", WRONG_OUTPUTS)
        far = _largest(other.astype(np.float64) - wanted.astype(np.float64))
        equal = _same_bits(wanted, other)
        differences[f"{sample.name} {name}"] = far
        if not far <= expected.allowed[name] or (expected.exact and equal < wanted.size):
            text = f"differs by {far:.6g} from that expected, allowed: {expected.allowed[name]:.6g}"
            raise Failed(f"{where} {text}", WRONG_OUTPUTS)
        total, same = total + wanted.size, same + equal
    worst = max(differences[f"{sample.name} {name}"] for name in sample.outputs)
    return f"{same} of {total} outputs have the same bits" + (f", largest difference {worst:.3g}" if worst else "")


def _same_bits(one: NDArray[Any], other: NDArray[Any]) -> int:
    pair = [np.ascontiguousarray(each).view(f"V{each.itemsize}") for each in (one, other)]
    return int((pair[0] == pair[1]).sum())


def _check_task(
    task: TaskCode,
    facts: Mapping[str, Any],
    expected: ExpectedOutputs,
    computed: Sequence[Arrays],
    found: Verification,
) -> None:
    """Check that the task's code makes the inputs and the predictions that are expected. Raises Failed.

    Predictions of the outputs computed here are compared too. Where outputs may differ so may they: that is a note.
    """
    check_task_code(task, facts, expected.samples)
    same = 0
    for sample, outputs in zip(expected.samples, computed):
        share = SAME if expected.exact else NEAR
        why = first_difference(sample.prediction, _decoded(task, sample, outputs), share)
        if why and expected.exact:
            raise Failed(f"{sample.name}: another prediction: {why}", WRONG_OUTPUTS)
        if why:
            found.notes.append(f"{sample.name}: another prediction, from outputs that are within tolerance: {why}")
        same += not why
    found.passed("task", f"{same} of {len(computed)} predictions are those expected, or near")


def check_task_code(task: TaskCode, facts: Mapping[str, Any], samples: Sequence[SampleArrays]) -> None:
    """Check the task's code on samples whose inputs, outputs and predictions are known. Raises Failed."""
    for sample in samples:
        try:
            raw = raw_of(sample.raw, facts)
            if why := first_difference(sample.inputs, task.inputs(raw), SAME):
                raise Failed(f"{sample.name}: {FACTS}: its code makes other inputs of the sample: {why}", WRONG_OUTPUTS)
        except Rejected as error:
            raise Failed(f"{sample.name}: {error}", WRONG_OUTPUTS) from error
        if why := first_difference(sample.prediction, _decoded(task, sample, sample.outputs), SAME):
            raise Failed(f"{sample.name}: {FACTS}: its code decodes the outputs otherwise: {why}", WRONG_OUTPUTS)


def _decoded(task: TaskCode, sample: SampleArrays, outputs: Arrays) -> dict[str, NDArray[Any]]:
    try:
        return prediction_arrays(task.decode(outputs))
    except Rejected as error:
        raise Failed(f"{sample.name}: {error}", WRONG_OUTPUTS) from error
