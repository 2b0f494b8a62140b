"""What packing came to, as text: the file in each way, what the packed one consists of, and the codes of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.report import numbers

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.results.packing import PackedSizes

_READ = (
    "Bound: zeroth-order entropy of the elements, without tables; what repeats elsewhere takes less. In memory: "
    "runtimes make tensors dense, so that packing changes neither memory nor time of an inference."
)


def packing_tables(sizes: PackedSizes) -> RenderableType:
    """Return what `secateur pack` prints. Names from the network are never read as rich's markup."""
    heading = f"{sizes.out}: {', '.join(sizes.files)} in {numbers.size(sizes.packed)}, unpacked in "
    return Group(
        Text(f"{heading}{numbers.duration(sizes.unpack_seconds)}", style="bold"),
        _files(sizes),
        _codes(sizes),
        Text(_READ, style="dim"),
    )


def _files(sizes: PackedSizes) -> Table:
    """Return the whole file as it was, in zlib, packed, and the parts of that."""
    found = _table("file", "bytes", "of raw")
    for name, size in (("raw", sizes.raw), ("zlib", sizes.zlib), ("packed", sizes.packed)):
        found.add_row(name, f"{size:,}", numbers.ratio(sizes.raw / size) if size else numbers.DASH)
    for name, size in sizes.parts.items():
        found.add_row(f"  {name}", f"{size:,}", "")
    return found


def _codes(sizes: PackedSizes) -> Table:
    """Return the tensors by the code that they are in, and all of them."""
    found = _table("tensors", "number", "in memory", "packed", "bound")
    for code in sorted({tensor.code for tensor in sizes.tensors}):
        own = [tensor for tensor in sizes.tensors if tensor.code == code]
        parts = (sum(tensor.raw for tensor in own), sum(t.packed for t in own), sum(t.bound for t in own))
        found.add_row(code, str(len(own)), *(f"{part:,.0f}" for part in parts))
    parts = (sizes.in_memory, sizes.tensors_packed, sizes.bound)
    found.add_row("all", str(len(sizes.tensors)), *(f"{part:,.0f}" for part in parts))
    return found


def _table(first: str, *others: str) -> Table:
    found = Table(box=box.SIMPLE, pad_edge=False)
    found.add_column(first)
    for name in others:
        found.add_column(name, justify="right")
    return found
