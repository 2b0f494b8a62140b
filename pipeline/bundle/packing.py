"""Exported networks as packed files, and back: which files belong together, and what is said of their sizes.

The codes themselves are in `pipeline/compress/coding/`, whose `unpack.py` a bundle ships unchanged.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from pipeline.bundle.selection import check_finished, default_runtime, shipping_rows, stored_artifact
from pipeline.compress.coding import unpack
from pipeline.compress.coding.names import CODE_NAMES
from pipeline.compress.coding.pack import PackedContent, pack_files
from pipeline.compress.coding.pieces import NotReadableError, TensorPlace, ir_end, ir_places, onnx_places
from pipeline.core.errors import InputError
from pipeline.core.partial import write_all_whole, write_whole
from pipeline.core.paths import kind_of, make_folder
from pipeline.core.reading import read_bytes
from pipeline.core.stage import SilentProgress
from pipeline.results.bundle import BundleOptions
from pipeline.results.packing import PackedSizes, TensorSize
from pipeline.results.run_folder import RUN_FILE, read_run

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from pipeline.core.stage import Progress

_EXPECTED = "an exported network (.onnx, or .xml beside its .bin)"
#: Bytes that may follow the last constant of an IR.
_BEHIND = 4096
_PACKED = "a packed network, which secateur pack makes"


class NetworkFiles(NamedTuple):
    """The files of an exported network by name, and where tensors lie in them."""

    files: Mapping[str, bytes]
    places: Mapping[str, Sequence[TensorPlace]]


def file_of_run(source: Path, runtime: str | None = None) -> Path:
    """Return the file of a run that a bundle would ship: for a runtime, or for that of the run's target.

    Raises:
        InputError: the run is not finished, or exports nothing that the runtime reads.
    """
    report, folder = read_run(source)
    check_finished(report, folder)
    rows = shipping_rows(report, BundleOptions(runtimes=(runtime,) if runtime else None))
    return stored_artifact(rows[runtime or default_runtime(report, rows)], folder).file


def is_run(source: Path) -> bool:
    """Return whether a path is the folder of a run, or its run.json."""
    return source.name == RUN_FILE or kind_of(source / RUN_FILE) == "a file"


def network_files(file: Path) -> NetworkFiles:
    """Return what belongs to an .onnx or .xml file: weights beside it too.

    Raises:
        InputError: it is none, cannot be read, or a file with its weights is missing; the message names that.
    """
    if file.suffix not in {".onnx", ".xml"}:
        raise InputError(f"{file}: found a file of another kind, expected {_EXPECTED}, or the folder of a run")
    content = read_bytes(file, _EXPECTED)
    if file.suffix == ".onnx":
        return _onnx_files(file, content)
    if b"<net" not in content[:4096]:
        raise InputError(f"{file} is damaged: it is no IR; expected {_EXPECTED}")
    weights = file.with_suffix(".bin")
    found = {file.name: content, weights.name: read_bytes(weights, f"the weights of {file}")}
    size, end = len(found[weights.name]), ir_end(content)
    if not end <= size <= end + _BEHIND:
        raise InputError(f"{weights} has {size:,} bytes, {file} says {end:,}: it is cut, or of another network")
    return NetworkFiles(found, {weights.name: ir_places(content)})


def _onnx_files(file: Path, content: bytes) -> NetworkFiles:
    try:
        inside, outside = onnx_places(content)
    except NotReadableError as error:
        raise InputError(f"{file} is not a valid ONNX model: {error}") from error
    files: dict[str, bytes] = {file.name: content}
    places: dict[str, list[TensorPlace]] = {file.name: inside}
    for tensor in outside:
        name = tensor.location
        if name not in files:
            _check_location(file, name)
            files[name] = read_bytes(file.parent / name, f"the weights of {file}: tensor {tensor.place.name!a}")
        size = tensor.size if tensor.size >= 0 else len(files[name]) - tensor.offset
        if tensor.offset + max(size, 0) > len(files[name]):
            raise InputError(f"{file.parent / name} is cut: tensor {tensor.place.name!a} of {file} lies behind its end")
        places.setdefault(name, []).append(tensor.place._replace(size=max(size, 0)))
    return NetworkFiles(files, places)


def _check_location(file: Path, name: str) -> None:
    try:
        unpack.check_name(name)
    except unpack.Damaged as error:
        raise InputError(f"{file}: {error}; its weights must lie beside it") from error


def check_codes(codes: Collection[str]) -> None:
    """Raise InputError for a code that there is not."""
    for name in codes:
        if name not in CODE_NAMES:
            raise InputError(f'codes: found "{name}", allowed: {", ".join(CODE_NAMES)}')


def packed_network(
    file: Path, *, codes: Collection[str] = CODE_NAMES, progress: Progress | None = None
) -> tuple[NetworkFiles, PackedContent]:
    """Return the files of an exported network, and them packed. Raises InputError as `network_files` does."""
    network, progress = network_files(file), progress or SilentProgress()
    try:
        packed = pack_files(
            network.files,
            network.places,
            codes=codes,
            told=lambda done, amount: progress.update(done, amount, f"pack {file.name}"),
        )
    except ValueError as error:
        raise InputError(f"{file} cannot be packed: {error}") from error
    return network, packed


def pack_network(
    file: Path, out: Path, *, codes: Collection[str] = CODE_NAMES, progress: Progress | None = None
) -> PackedSizes:
    """Write an exported network as a packed file; return what that takes.

    Args:
        file: an .onnx file, or an .xml beside its .bin.
        out: the file that is written or replaced.
        codes: names of the codes that may be used.
        progress: told how many tensors are done.

    Raises:
        InputError: as of `network_files`, or a code that there is not.
        ResourceError: it cannot be written.
    """
    check_codes(codes)
    network, packed = packed_network(file, codes=codes, progress=progress)
    write_whole(out, packed.content)
    return packed_sizes(file, out, network, packed)


def packed_sizes(file: Path, out: Path, network: NetworkFiles, packed: PackedContent) -> PackedSizes:
    """Return what a packed network takes, and how long it takes to unpack it here."""
    started = time.perf_counter()
    unpack.unpack_files(packed.content)
    seconds = time.perf_counter() - started
    tensors = packed.tensors
    return PackedSizes(
        source=str(file),
        out=str(out),
        files={name: len(content) for name, content in network.files.items()},
        raw=sum(map(len, network.files.values())),
        zlib=sum(len(zlib.compress(content, 9)) for content in network.files.values()),
        packed=len(packed.content),
        parts=dict(packed.parts),
        bound=sum(tensor.bound for tensor in tensors),
        tensors_raw=sum(tensor.raw for tensor in tensors),
        tensors_packed=sum(tensor.packed for tensor in tensors),
        in_memory=sum(tensor.raw for tensor in tensors),
        unpack_seconds=round(seconds, 3),
        tensors=tuple(TensorSize(**asdict(tensor)) for tensor in tensors),
    )


def unpack_network(packed: Path, out: Path | None = None) -> tuple[Path, ...]:
    """Write the files that lie in a packed one; return them. What is there already must be the same.

    Args:
        packed: the packed file.
        out: a folder, made where there is none; that of the packed file when left out.

    Raises:
        InputError: it is not a packed file, of a newer format, cut or changed, or another file has one of the names.
        ResourceError: a file cannot be written.
    """
    files = unpacked_content(packed)
    folder = packed.parent if out is None else out
    places = {folder / name: content for name, content in files.items()}
    make_folder(folder, "the folder of what is unpacked", "give --out another")
    for place, content in places.items():
        is_same = kind_of(place) == "a file" and place.stat().st_size == len(content) and place.read_bytes() == content
        if not is_same and (kind_of(place) or place.is_symlink()):
            raise InputError(f"{place} is there already, and is something else: move it, or give --out")
    write_all_whole(places)
    return tuple(places)


def unpacked_content(packed: Path) -> dict[str, bytes]:
    """Return the content of the files in a packed one by name. Raises InputError, which names the packed file."""
    try:
        return unpack.unpack_files(read_bytes(packed, _PACKED))
    except unpack.Damaged as error:
        raise InputError(f"{packed}: {error}") from error
