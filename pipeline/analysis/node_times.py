"""Where a file's time goes, node by node, by the runtime's own profiler.

Profiling costs time itself, small nodes most, and the nodes' times do not add up to a latency: what can be told are
shares. A runtime runs other nodes than the file has; a kernel that computes several of them counts for the one that
multiplies, else for the first. What the runtime added (conversions of layout, of type) keeps the runtime's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.analysis.feeds import image_feeds
from pipeline.core.errors import InputError
from pipeline.core.runtimes import FORMS, RUNTIMES, form_of, loaded
from pipeline.export.openvino import openvino_specs, read_openvino
from pipeline.onnx_graph.file import onnx_specs, read_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.analysis.feeds import Feed
    from pipeline.analysis.times import NodeTimes
    from pipeline.core.stage import Runtime


def node_time_shares(file: Path, runtime: Runtime, *, samples: NDArray[np.float32], runs: int = 50) -> dict[str, float]:
    """Return the profiled nanoseconds of one inference on one thread, by node of the file; shares are what counts.

    A node that is computed within another, or in less time than the profiler can tell, is left out. What belongs to no
    node has the runtime's own name.

    Args:
        file: an ONNX file, or an IR (.xml) for openvino. ONNX nodes without a name have that of their first output.
        runtime: onnxruntime or openvino.
        samples: inputs [N, ...] as the network takes them; the first of the file's batch is used.
        runs: profiled inferences. onnxruntime's times are the means of the middle half of them, OpenVINO's of all.

    Raises:
        InputError: the file cannot be read, the samples do not fit, or the runtime does not read such files.
    """
    specs = openvino_specs(read_openvino(file))[0] if file.suffix == ".xml" else onnx_specs(read_onnx(file))[0]
    found = node_times(file, runtime, image_feeds(specs, samples, str(file))[0], runs=runs)
    shares: dict[str, float] = {}
    for kernel in found.kernels:
        if kernel.nanoseconds > 0:
            shares[kernel.name] = shares.get(kernel.name, 0.0) + kernel.nanoseconds
    return shares


def node_times(file: Path, runtime: Runtime, feed: Feed, *, runs: int = 50, threads: int = 1) -> NodeTimes:
    """Profile `runs` inferences of a file on the same inputs, all optimisations on.

    Raises:
        InputError: the runtime cannot read the file, or has no profiler here.
    """
    facts = RUNTIMES[runtime]
    if not facts.profiler or (form_of(file) or "onnx") not in facts.reads:
        allowed = "; ".join(
            f"{name} for {' and '.join(FORMS[form].suffix for form in each.reads)}"
            for name, each in RUNTIMES.items()
            if each.profiler
        )
        raise InputError(f"{file}: {runtime} cannot profile it; allowed are {allowed}")
    times: NodeTimes = loaded(facts.profiler).profile(file, feed, runs=runs, threads=threads)
    return times
