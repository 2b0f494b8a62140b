"""What a user of each library gets who follows its guide: the peers of quantization.py, with the library's defaults."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch

from pipeline.onnx_graph.file import finish_model, write_onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]


def onnxruntime_default(file: Path, samples: Samples, network: torch.nn.Module, out: Path) -> None:
    """Call onnxruntime's quantize_static behind its pre-processing: s8s8, one scale for each tensor, min-max."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    del network
    name = onnx.load(file).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter([{name: each[None]} for each in samples])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(file), str(prepared))
    quantize_static(str(prepared), str(out), Reader())
    prepared.unlink()


def nncf_default(file: Path, samples: Samples, network: torch.nn.Module, out: Path) -> None:
    """Call nncf.quantize of the ONNX file, nothing set."""
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    del network
    model = onnx.load(file)
    name = model.graph.input[0].name
    dataset = nncf.Dataset([{name: each[None]} for each in samples])
    write_onnx(finish_model(nncf.quantize(model, dataset, subset_size=len(samples))), out)


def neural_compressor_default(file: Path, samples: Samples, network: torch.nn.Module, out: Path) -> None:
    """Take Neural Compressor's static quantization of the torch network by torch.export, then torch.onnx."""
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    del file
    fed = [torch.from_numpy(each[None]) for each in samples[:FEW]]
    exported = export(network.eval(), (fed[0],))
    prepared = prepare(exported, get_default_static_config())
    with torch.no_grad():
        for each in fed:
            prepared(each)
        converted = convert(prepared)
        program = torch.onnx.export(converted, (fed[0],), dynamo=True, verbose=False)
    program.save(str(out))


#: Neural Compressor's observers take seconds for an image of a depthwise network.
FEW = 32

PEERS: dict[str, Callable[[Path, Samples, torch.nn.Module, Path], None]] = {
    "onnxruntime default": onnxruntime_default,
    "NNCF default": nncf_default,
    "Neural Compressor default": neural_compressor_default,
}


def make_peers(file: Path, samples: Samples, network: torch.nn.Module, folder: Path) -> dict[str, Path | str]:
    """Return the file of each peer, or the reason why it gave none."""
    found: dict[str, Path | str] = {}
    for name, make in PEERS.items():
        out = folder / f"{name.replace(' ', '-')}.onnx"
        if out.is_file():  # made for the other runtime
            found[name] = out
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make(file, samples, network, out)
        except Exception as error:  # noqa: BLE001 - whatever a library raises is the result
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        else:
            found[name] = out
    return found
