"""What torch's exporter makes anew for every file, and a process of tests once."""

from __future__ import annotations

from functools import cache


def keep_tables() -> None:
    """Keep the list of operators that torch composes of others from the first export on."""
    from torch._export import utils  # noqa: PLC0415 - loads torch

    # Fills the namespaces of operators, to which these tests add none in C++.
    utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
