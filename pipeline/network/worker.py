"""The worker that also runs torch networks: for comparison with exported files, on this machine only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.measure.worker import main
from pipeline.measure.worker_bench import open_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.measure.runtimes import Session


def _open_any(file: Mapping[str, Any]) -> Session:
    """Load an exported file, or the torch network whose definition `path` is."""
    if file["runtime"] != "torch":
        return open_file(file)
    from pipeline.core.store import read_artifact
    from pipeline.measure.runtimes import InputPort
    from pipeline.measure.runtimes.torch import open_module
    from pipeline.network.stored import load_network

    artifact = read_artifact(Path(file["path"]).parent)
    shapes = {each.name: (file["batch"], *each.shape[1:]) for each in artifact.inputs}
    shapes |= {name: tuple(shape) for name, shape in file["shapes"].items()}
    ports = tuple(InputPort(each.name, shapes[each.name], each.dtype) for each in artifact.inputs)
    return open_module(load_network(artifact), ports, file["threads"])


if __name__ == "__main__":
    main(_open_any)
