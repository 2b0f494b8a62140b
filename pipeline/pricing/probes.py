"""Probes: measured states of a network, kept on disk by what their times depend on."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline.compress.pruning.state import NetworkState
from pipeline.core.paths import cache_root
from pipeline.core.runtimes import RUNTIMES
from pipeline.measure.machine import machine_fingerprint
from pipeline.measure.subjects import MeasureTerms, start_worker
from pipeline.results.measurement import machine_digest
from pipeline.results.profile import ProbedState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.stage import Runtime, Target
    from pipeline.measure.devices import Device


@dataclass(frozen=True)
class Probe:
    """One measured state: log(time / time of the whole network's file), and its standard error."""

    state: NetworkState
    log_ratio: float
    error: float

    def record(self) -> ProbedState:
        """Return it as it is kept."""
        return ProbedState(
            widths=dict(self.state.widths),
            dropped=tuple(sorted(self.state.dropped)),
            log_ratio=self.log_ratio,
            error=self.error,
        )


def probe_of(record: ProbedState) -> Probe:
    """Return a probe from what was kept of it."""
    return Probe(NetworkState(record.widths, frozenset(record.dropped)), record.log_ratio, record.error)


@dataclass(frozen=True)
class Machine:
    """The machine that times files, and the version of the runtime there."""

    fingerprint: Mapping[str, Any]
    runtime: Runtime
    runtime_version: str


def machine_of(target: Target, device: Device | None) -> Machine:
    """Ask a device what it is; None is this machine.

    Raises DeviceError when the device cannot be reached.
    """
    package = RUNTIMES[target.runtime].package
    if device is None:
        return Machine(machine_fingerprint(), target.runtime, version(package))
    with ExitStack() as stack:
        _, hello = start_worker(stack, device, MeasureTerms(threads=1, batch=1))
    return Machine(hello["fingerprint"], target.runtime, str(hello["packages"].get(package, "")))


def graph_digest(model: ModelProto) -> str:
    """Return the digest of all that a file's time depends on: nodes and the sizes of weights, not their values."""
    graph = model.graph
    content = hashlib.sha256()
    for node in graph.node:
        content.update(node.SerializeToString(deterministic=True))
    for weight in graph.initializer:
        content.update(f"{weight.name} {weight.data_type} {list(weight.dims)}\n".encode())
    for port in graph.input:
        content.update(port.SerializeToString(deterministic=True))
    return content.hexdigest()


def kept_profile(graph: str, groups: Mapping[str, int], precision: str, target: Target, machine: Machine) -> Path:
    """Return where the profile of a network is kept: by graph, groups, precision, runtime, machine and terms."""
    parts = [
        *(graph, groups, precision, machine.runtime, machine.runtime_version, machine_digest(machine.fingerprint)),
        *(target.threads, target.batch),
    ]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return cache_root() / "profiles" / f"{digest}.json"
