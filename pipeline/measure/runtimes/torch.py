"""PyTorch on the CPU, for comparison only: the network that was trained, not a file that ships."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.core.stage import Runtime
    from pipeline.measure.runtimes import InputPort


@dataclass(frozen=True)
class TorchSession:
    """A copy of a network in eval mode."""

    module: torch.nn.Module
    inputs: tuple[InputPort, ...]
    threads: int
    options: dict[str, str]
    version: str = str(torch.__version__)
    name: ClassVar[Runtime] = "torch"

    def run(self, *inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Infer once and return all outputs."""
        with _threads(self.threads), torch.inference_mode():
            outputs = self.module(*(torch.from_numpy(each) for each in inputs))
        return [each.numpy() for each in tree_leaves(outputs) if isinstance(each, torch.Tensor)]


def open_module(model: torch.nn.Module, inputs: tuple[InputPort, ...], threads: int) -> TorchSession:
    """Copy a network, so that each session has memory of its own, and set it to eval mode."""
    options = {"mode": "eager", "num_threads": str(threads), "memory_format": "contiguous"}
    return TorchSession(copy.deepcopy(model).eval(), inputs, threads, options)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the process's number of threads for a while: training in the same process keeps its own."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
