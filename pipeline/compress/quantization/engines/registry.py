"""The quantization engines by name; what one needs is imported when it is opened, and may be missing until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compress.quantization.engines.engine import missing_engine
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.compress.quantization.engines.engine import Engine
    from pipeline.compress.quantization.names import EngineName


def _onnxruntime() -> Engine:
    from pipeline.compress.quantization.engines.onnxruntime import OnnxRuntime  # noqa: PLC0415 - loads onnxruntime

    return OnnxRuntime()


def _neural_compressor() -> Engine:
    from pipeline.compress.quantization.engines.neural_compressor import NeuralCompressor  # noqa: PLC0415 - loads torch

    return NeuralCompressor()


def _nncf() -> Engine:
    from pipeline.compress.quantization.engines.nncf import Nncf  # noqa: PLC0415 - loads onnxruntime

    return Nncf()


#: Makes each engine; none needs its package for that.
ENGINES: Mapping[EngineName, Callable[[], Engine]] = {
    "onnxruntime": _onnxruntime,
    "neural-compressor": _neural_compressor,
    "nncf": _nncf,
}


def open_engine(name: EngineName) -> Engine:
    """Return the engine of this name. Raises InputError with the command that installs its package if it is missing."""
    engine = ENGINES[name]()
    command = missing_engine(engine)
    if command is not None:
        raise InputError(f"engine {name} needs the package {engine.package}, which is not installed: {command}")
    return engine


def available() -> tuple[EngineName, ...]:
    """Return the engines whose packages are installed."""
    return tuple(name for name, make in ENGINES.items() if missing_engine(make()) is None)
