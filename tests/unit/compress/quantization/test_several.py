"""Networks of several inputs of any type and of several outputs in int8: every engine, recovery, and training."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from pipeline.analysis.noise import own_layer_sqnr
from pipeline.compress.quantization.aware.graph import QuantizationAware
from pipeline.compress.quantization.canonical import canonical_form
from pipeline.compress.quantization.engines.engine import missing_engine
from pipeline.compress.quantization.engines.registry import ENGINES
from pipeline.compress.quantization.names import EngineName
from pipeline.compress.quantization.ranges import activation_ranges
from pipeline.compress.quantization.saturation import count_saturation
from pipeline.core.errors import InputError
from pipeline.core.nearness import LEAST_DECIBELS, lowest_decibels
from pipeline.export.execution import openvino_outputs, torch_outputs
from pipeline.export.onnx import FILE_NAME, export_onnx
from pipeline.export.openvino import XML_NAME, export_openvino
from pipeline.export.simplify import simplify_onnx
from pipeline.measure.devices.local import LocalDevice
from pipeline.onnx_graph.execution import onnx_outputs
from pipeline.onnx_graph.file import finish_model, is_quantized, onnx_specs, read_onnx, write_onnx
from pipeline.precision.same_bits import exact_sums, on_device
from pipeline.precision.variant import Variant, build
from pipeline.stages.quantize_aware.training import folded_norms, tied_parameters
from tests.defaults import asked
from tests.several import NETWORKS

if TYPE_CHECKING:
    from onnx import ModelProto

    from pipeline.compress.quantization.names import Recovery

MIN_MAX = asked("u8s8", calibration="min-max")
#: Signal to noise that eight bits leave in each of these small networks at least.
DECIBELS = 18.0


@cache
def exported(kind: str) -> ModelProto:
    """Return the float graph of a network, simplified, for one sample in a call."""
    case = NETWORKS[kind]
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(case.model(), Path(folder), case.specs(1))
        simplify_onnx(Path(folder) / FILE_NAME, Path(folder) / "simple.onnx", case.feeds())
        return read_onnx(Path(folder) / "simple.onnx")


@pytest.fixture(params=get_args(EngineName))
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Return an engine that is installed."""
    if command := missing_engine(ENGINES[request.param]()):
        pytest.skip(f"the engine is not installed: {command}")
    name: EngineName = request.param
    return name


@pytest.mark.parametrize("recovery", [(), ("bias",), ("adaround", "bias")])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_engine_and_recovery(
    kind: str, engine: EngineName, recovery: tuple[Recovery, ...], tmp_path: Path
) -> None:
    """All outputs stay near in both runtimes; whole numbers go in as they are."""
    case = NETWORKS[kind]
    made = build(exported(kind), case.feeds(), Variant(engine, MIN_MAX, recovery))
    assert is_quantized(made.model)
    assert sum(made.nodes.values()) > 1
    assert onnx_specs(made.model)[0] == onnx_specs(exported(kind))[0]
    whole = {name for name, (_, dtype) in case.inputs.items() if dtype == "int64"}
    assert not whole & {node.input[0] for node in made.model.graph.node if node.op_type == "QuantizeLinear"}
    file = tmp_path / FILE_NAME
    write_onnx(finish_model(made.model), file)
    export_openvino(file, tmp_path)
    wanted, feeds = torch_outputs(case.model(), case.feeds()), case.feeds()
    for found in (
        onnx_outputs(file, feeds),
        onnx_outputs(file, feeds, optimised=True),
        openvino_outputs(tmp_path / XML_NAME, feeds),
    ):
        assert [output.shape for output in found] == [output.shape for output in wanted]
        assert lowest_decibels(wanted, found) > DECIBELS


@pytest.mark.parametrize("kind", NETWORKS)
def test_files_are_looked_at(kind: str, tmp_path: Path) -> None:
    """Noise layer by layer, sums that saturate, and the same bits here and in a worker, on all inputs."""
    case, file, float_file = NETWORKS[kind], tmp_path / FILE_NAME, tmp_path / "float.onnx"
    made = build(exported(kind), case.feeds(), Variant("onnxruntime", asked("u8s8-reduced", calibration="min-max")))
    write_onnx(exported(kind), float_file)
    write_onnx(finish_model(made.model), file)
    assert min(own_layer_sqnr(float_file, file, case.feeds()).values()) > LEAST_DECIBELS
    assert count_saturation(made.model, case.feeds()).saturated == 0
    assert exact_sums(file, case.feeds(3)).images == 3
    assert on_device(file, case.feeds(3), LocalDevice()).same_bits == 3


@pytest.mark.parametrize("kind", NETWORKS)
def test_training_simulates_what_ships(kind: str, tmp_path: Path) -> None:
    """The graph returns what the network does, in its containers, trains, and ships as the file that it simulates."""
    case = NETWORKS[kind]
    network, feeds = case.model(), case.feeds()
    export_onnx(network, tmp_path, case.specs(2))
    model = canonical_form(read_onnx(tmp_path / FILE_NAME))
    ranges = activation_ranges(model, feeds, calibration="min-max", percentile=100)
    few = tuple(torch.from_numpy(values[:2]) for values in feeds.values())
    assert tied_parameters(network, few) == frozenset()
    aware = QuantizationAware(model, ranges, MIN_MAX, folded_norms(network, few), keep_zeros=True)
    with torch.no_grad():
        wanted = network(*few)
    aware.return_like(wanted)
    found = aware(*aware.given(feeds))
    assert type(found) is type(wanted)
    leaves = tree_leaves(found)
    torch.stack([leaf.square().mean() for leaf in leaves]).sum().backward()
    assert all(weight.grad is not None for weight in aware.trained.parameters())
    aware.eval()
    with torch.no_grad():
        simulated = [each.numpy() for each in tree_leaves(aware(*aware.given(feeds)))]
    write_onnx(finish_model(aware.shipped().model), tmp_path / "int8.onnx")
    assert lowest_decibels(simulated, onnx_outputs(tmp_path / "int8.onnx", feeds)) > 30


def test_samples_that_do_not_fit_are_refused() -> None:
    """By the name of the input that is wrong."""
    case = NETWORKS["tokens"]
    feeds, bounds = case.feeds(), {"calibration": "min-max", "percentile": 100.0}
    for wrong, expected in (
        ({"mask": feeds["mask"][:, :4]}, r"accepts mask of shape \[6\], the calibration images have \[4\]"),
        ({"mask": np.full_like(feeds["mask"], np.nan)}, r"not finite \(input mask\)"),
        ({"other": feeds["mask"]}, "the float graph takes ids, mask; found ids, mask, other"),
    ):
        with pytest.raises(InputError, match=expected):
            activation_ranges(exported("tokens"), {**feeds, **wrong}, **bounds)  # type: ignore[arg-type]
