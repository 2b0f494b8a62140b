"""Measures states of a network on a device, and keeps what was measured.

Probes are kept after every measurement: a run that was killed, and every later one, goes on with them.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from pipeline.compress.pruning.state import NetworkState
from pipeline.latency.device_cache import keep_record, read_kept
from pipeline.onnx_graph.file import write_onnx
from pipeline.pricing.probes import Probe, graph_digest, kept_profile, machine_of, probe_of
from pipeline.pricing.timing import PROBE_S, TOGETHER, VERDICT_S
from pipeline.results.profile import CostProfile, SizePrice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto

    from pipeline.core.file_precision import FilePrecision
    from pipeline.pricing.timing import FileTimer, PairedRatio
    from pipeline.results.run import Interval


class Probed(Protocol):
    """A network whose states are measured."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def precision(self) -> FilePrecision:
        """What its file computes in."""

    @property
    def groups(self) -> Mapping[str, int]:
        """The sizes that a state may change, whole."""

    def file_at(self, state: NetworkState) -> ModelProto:
        """Return a file for timing."""

    def may_be(self, state: NetworkState) -> bool:
        """Say whether the network may be in a state."""


class Prober:
    """Measures states of one network with one timer; `folder` is for probe files, which are removed again."""

    #: What differs from state to state, for people.
    what = "widths"

    def __init__(self, network: Probed, timer: FileTimer, folder: Path, seed: int) -> None:
        self.network, self.timer, self.folder, self.seed = network, timer, folder, seed
        self.progress = timer.progress
        self.began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self.whole = folder / "whole.onnx"
        model = network.file_at(NetworkState())
        write_onnx(model, self.whole)
        self._machine = machine_of(timer.target, timer.device)
        self.kept = kept_profile(
            graph_digest(model), network.groups, network.precision.model_dump_json(), timer.target, self._machine
        )
        self.profile = read_kept(self.kept, CostProfile) or self._begun()

    def forget(self) -> None:
        """Leave aside what was measured before, and time the whole network's file anew."""
        self.began = time.monotonic()
        self.profile = self._begun()

    def ratio(self, model: ModelProto, against: Path | None = None) -> PairedRatio:
        """Measure a file against the whole network's, or against another one."""
        file = self.folder / "state.onnx"
        write_onnx(model, file)
        return self.timer.timed(against or self.whole, [file], VERDICT_S).ratios[0]

    def whole_now(self) -> Interval:
        """Measure the whole network's file alone: its milliseconds as the device is now."""
        return self.timer.timed(self.whole, [], VERDICT_S).whole

    def gains(self, state: NetworkState, without: Mapping[str, NetworkState]) -> dict[str, PairedRatio]:
        """Return for each of some states by name log(its time / the time of `state`): what a move has bought."""
        base = self.folder / "state.onnx"
        write_onnx(self.network.file_at(state), base)
        found: dict[str, PairedRatio] = {}
        names = list(without)
        for start in range(0, len(names), TOGETHER):
            some = names[start : start + TOGETHER]
            self.progress.update(start, len(names), "measuring what each move has bought")
            files = self._write({name: without[name] for name in some})
            timed = self.timer.timed(base, files, PROBE_S)
            found |= dict(zip(some, timed.ratios, strict=True))
        return found

    def keep_sizes(self, ratios: Mapping[int, Interval]) -> None:
        """Keep in the profile what the whole file takes at other sides of its images, as shares of its time."""
        self._keep(sizes=tuple(SizePrice(side=side, ratio=ratio) for side, ratio in ratios.items()))

    @property
    def probes(self) -> list[Probe]:
        """What is known of states that the network may be in; others are kept for who allows their moves."""
        return [probe for probe in map(probe_of, self.profile.probes) if self.network.may_be(probe.state)]

    def probe(self, states: Sequence[NetworkState], total: int) -> None:
        """Measure the states that are not known yet, some together, and keep them as they are found.

        Raises:
            InputError, OutputsError: the runtime refuses a probe.
            DeviceError: the device cannot be reached, went away, or is throttled: what was measured is kept.
        """
        known = {(tuple(sorted(each.state.widths.items())), each.state.dropped) for each in self.probes}
        new = [each for each in states if (tuple(sorted(each.widths.items())), each.dropped) not in known]
        began = time.monotonic()
        for start in range(0, len(new), TOGETHER):
            some = new[start : start + TOGETHER]
            done = min(len(self.probes), total - (len(new) - start))
            left = (time.monotonic() - began) / start * (total - done) if start else 0.0
            text = f"probing {self.what}, about {left:.0f} s left" if left else f"probing {self.what}"
            self.progress.update(done, total, text)
            files = self._write({str(place): state for place, state in enumerate(some)})
            timed = self.timer.timed(self.whole, files, PROBE_S)
            found = [
                Probe(state, each.log.centre, each.log.error).record()
                for state, each in zip(some, timed.ratios, strict=True)
            ]
            self._keep(probes=(*self.profile.probes, *found))

    def _write(self, states: Mapping[str, NetworkState]) -> list[Path]:
        files = []
        for place, state in enumerate(states.values()):
            files.append(self.folder / f"probe{place}.onnx")
            write_onnx(self.network.file_at(state), files[-1])
        return files

    def _begun(self) -> CostProfile:
        timed = self.timer.timed(self.whole, [], PROBE_S)
        target, machine = self.timer.target, self._machine
        return CostProfile(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            network=self.network.name,
            precision=str(self.network.precision),
            runtime=target.runtime,
            runtime_version=machine.runtime_version,
            threads=target.threads,
            batch=target.batch,
            device=target.device,
            fingerprint=dict(machine.fingerprint),
            whole=timed.whole,
        )

    def _keep(self, **found: object) -> None:
        seconds = self.profile.seconds + time.monotonic() - self.began
        self.began = time.monotonic()
        self.profile = self.profile.model_copy(update={**found, "seconds": seconds})
        keep_record(self.kept, self.profile)
