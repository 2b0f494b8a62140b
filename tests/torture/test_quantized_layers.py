"""Random float graphs, quantized by each engine: the int8 file computes what they do but for the noise of 8 bits.

In the whole campaign alone: tests/properties/test_quantization.py tries others in every run of the suite.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from pipeline.compress.quantization.engines.engine import missing_engine
from pipeline.compress.quantization.engines.registry import ENGINES
from tests.properties.test_quantization import problems

if TYPE_CHECKING:
    from pipeline.compress.quantization.names import EngineName
    from tests.torture.tally import Tally

pytestmark = pytest.mark.slow
FIRST = 100_000
PARTS = 2
#: Networks for each engine.
MANY: dict[EngineName, int] = {"onnxruntime": 300, "nncf": 80, "neural-compressor": 60}


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("engine", ENGINES)
def test_random_quantized_layers(tally: Tally, engine: EngineName, part: int) -> None:
    """In onnxruntime as it is and optimised, and in OpenVINO, with a scheme and granularity that the seed chooses."""
    if missing_engine(ENGINES[engine]()) is not None:
        pytest.skip(f"{engine} is not installed")
    for seed in range(FIRST + part, FIRST + MANY[engine], PARTS):
        try:
            wrong = "; ".join(problems(random.Random(seed), engine))
        except Exception as error:  # noqa: BLE001 - each graph can be quantized
            wrong = f"{type(error).__name__}: {error}"
        tally.add("random quantized layers", (engine, seed), wrong)
