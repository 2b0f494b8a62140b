"""How many bytes an exported network takes packed, and how long it takes to pack and unpack, beside other compressors.

    .venv/bin/python benchmarks/packing.py model.onnx int8.onnx other/model.xml > table.md

Of an ONNX file also with the smallest weights set to zero, and with the others in 16 clusters: no network that is of
any use without training, but the bytes are those of one that is. Seconds are those of the process, not of the clock.
zstd is a column where the package zstandard is installed; nothing that ships needs it.
"""

from __future__ import annotations

import lzma
import sys
import time
import zlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.bundle.packing import NetworkFiles, network_files
from pipeline.compress.coding.pack import pack_files
from pipeline.compress.coding.pieces import onnx_places
from pipeline.compress.coding.unpack import unpack_files

if TYPE_CHECKING:
    from collections.abc import Iterator

DENSITIES, CLUSTERS, ROUNDS = (0.1, 0.05), 16, 15
#: Weights of fewer elements are left as they are.
SMALLEST = 200
HEAD = "| file | raw | zlib | zstd | xz | packed | | tensors packed | bound | graph, names | pack, s | unpack, s |"


def clustered(values: np.ndarray) -> np.ndarray:
    """Return values as the means of clusters, by Lloyd's algorithm from equal steps."""
    centres = np.linspace(values.min(), values.max(), CLUSTERS)
    for _ in range(ROUNDS):
        nearest = np.abs(values[:, None] - centres).argmin(axis=1)
        centres = np.array(
            [values[nearest == each].mean() if (nearest == each).any() else centres[each] for each in range(CLUSTERS)]
        )
    return centres[np.abs(values[:, None] - centres).argmin(axis=1)].astype(values.dtype)


def pruned(file: Path, density: float, *, clusters: bool) -> bytes:
    """Return an ONNX file whose smallest weights, over all layers, are zero."""
    model = onnx.load(file)
    tensors = [each for each in model.graph.initializer if len(each.dims) > 1 and np.prod(each.dims) > SMALLEST]
    arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
    sizes = [np.abs(each.astype(float)) / (np.abs(each).max() if each.dtype == np.int8 else 1) for each in arrays]
    least = np.quantile(np.concatenate([size.ravel() for size in sizes]), 1 - density)
    for tensor, array, size in zip(tensors, arrays, sizes, strict=True):
        kept = np.where(size >= least, array, 0).astype(array.dtype)
        if clusters and kept.any():
            kept[kept != 0] = clustered(kept[kept != 0])
        tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    return model.SerializeToString(deterministic=True)


def networks(file: Path) -> Iterator[tuple[str, NetworkFiles]]:
    """Yield the files of a network, and those of its pruned ones, with a name for each."""
    yield file.as_posix(), network_files(file)
    for density in DENSITIES if file.suffix == ".onnx" else ():
        for clusters in (False, True):
            content = pruned(file, density, clusters=clusters)
            what = f"{density:.0%} of the weights{f', {CLUSTERS} clusters' if clusters else ''}"
            yield what, NetworkFiles({file.name: content}, {file.name: onnx_places(content)[0]})


def zstd_bytes(content: bytes) -> int | None:
    """Return what zstd makes of a file at its highest level; None where it is not installed."""
    try:
        return len(import_module("zstandard").ZstdCompressor(level=22).compress(content))
    except ImportError:
        return None


def table_row(name: str, network: NetworkFiles) -> str:
    """Return the line of a network."""
    started = time.process_time()
    packed = pack_files(network.files, network.places)
    ended = time.process_time()
    unpack_files(packed.content)
    contents = list(network.files.values())
    raw, others = sum(map(len, contents)), [zstd_bytes(each) for each in contents]
    numbers = (
        raw,
        sum(len(zlib.compress(each, 9)) for each in contents),
        None if None in others else sum(each or 0 for each in others),
        sum(len(lzma.compress(each, preset=9 | lzma.PRESET_EXTREME)) for each in contents),
        len(packed.content),
    )
    shown = " | ".join("-" if each is None else f"{each:,}" for each in numbers)
    tensors = (sum(each.packed for each in packed.tensors), sum(each.bound for each in packed.tensors))
    rest = f"{tensors[0]:,.0f} | {tensors[1]:,.0f} | {packed.parts['graph and small tensors']:,}"
    seconds = f"{ended - started:.1f} | {time.process_time() - ended:.2f}"
    return f"| {name} | {shown} | {raw / len(packed.content):.1f}x | {rest} | {seconds} |"


def main() -> None:
    """Print the table of the files that are named."""
    print("# Packed files, in bytes\n")
    print("Written by `benchmarks/packing.py`, which says how. Bound: zeroth-order entropy of all tensors.\n")
    print(HEAD, "|---|" + "--:|" * (HEAD.count("|") - 2), sep="\n")
    for name in sys.argv[1:]:
        for what, network in networks(Path(name)):
            print(table_row(what, network), flush=True)


if __name__ == "__main__":
    main()
