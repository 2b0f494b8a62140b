"""What torch's exporter makes anew for every file, and a process of tests once: most of the time of a small export."""

from __future__ import annotations

from functools import cache


def keep_tables() -> None:
    """Keep the table of operators, and the list of those that torch composes of others, from the first export on."""
    from torch._export import utils  # noqa: PLC0415 - loads torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # noqa: PLC0415

    ONNXRegistry.from_torchlib = classmethod(cache(ONNXRegistry.from_torchlib.__func__))
    # Fills the namespaces of operators, to which these tests add none in C++.
    utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
