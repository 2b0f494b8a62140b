"""A template's files have the sizes and operators of real ones, and what it cannot explain is refused."""

from __future__ import annotations

from collections import Counter
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pipeline.compress.pruning.graph import Axis
from pipeline.compress.pruning.state import NetworkState
from pipeline.core.errors import InputError
from pipeline.onnx_graph.execution import onnx_session
from pipeline.pricing.places import read_numbers
from pipeline.pricing.template import FileTemplate, infer_template
from pipeline.pricing.widths import Narrower, NoTemplateError, size_at
from tests.unit.pricing.made_files import Attention, Files, Mixed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from onnx import ModelProto

NETWORKS: dict[str, Callable[[], Files]] = {
    "mixed": lambda: Files(Mixed()),
    "attention": lambda: Files(Attention()),
    "heads": lambda: Files(Attention(), heads=True),
}
CASES = [("mixed", "fp32"), ("mixed", "int8"), ("attention", "int8"), ("attention", "int8-dynamic"), ("heads", "fp32")]


@cache
def files_of(name: str) -> Files:
    """Return a network's files; they are made once."""
    return NETWORKS[name]()


@cache
def template_of(name: str, precision: str) -> FileTemplate:
    """Return the template of a network's file."""
    files = files_of(name)
    return infer_template(partial(files.in_precision, precision), files.graph, files.grids, files.blocks)


def require_same(found: ModelProto, real: ModelProto) -> None:
    """Raise unless two files have the same nodes, wired alike, and the same sizes everywhere."""
    one, other = read_numbers(found), read_numbers(real)
    one.require_like(other)
    assert one.numbers == other.numbers


def require_runs(model: ModelProto, images: Mapping[str, np.ndarray]) -> None:
    """Run a file in both runtimes; its outputs must be finite."""
    onnx.checker.check_model(model, full_check=True)
    one = {name: array[:1] for name, array in images.items()}
    (found,) = onnx_session(model, "the file", optimised=True).run(None, one)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
    (also,) = compiled(one).values()
    assert np.isfinite(found).all()
    assert np.isfinite(also).all()


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_a_template_gives_the_sizes_and_operators_of_real_files(name: str, precision: str) -> None:
    """At widths of its own for every group, whole and without a block."""
    files, template = files_of(name), template_of(name, precision)
    widths = {group: grid[index % len(grid)] for index, (group, grid) in enumerate(files.grids.items(), 1)}
    made = template.file_at(NetworkState(widths))
    require_same(made, files.in_precision(precision, widths))
    require_runs(made, files.images)
    require_same(template.file_at(NetworkState()), files.in_precision(precision, {}))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_blocks_that_share_constants_are_found(precision: str) -> None:
    """Group norms of one size are exported with one scale and bias, which are named after the first of them."""

    def block() -> nn.Module:
        return nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1))

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two, self.fc = nn.Conv2d(3, 8, 3), block(), block(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            x = x + self.one(x)
            x = x + self.two(x)
            return self.fc(x.mean((2, 3)))

    files = Files(Normed())
    template = infer_template(partial(files.in_precision, precision), files.graph, files.grids, files.blocks)
    gone = frozenset({"two"})
    require_same(template.file_at(NetworkState(dropped=gone)), files.in_precision(precision, {}, gone))


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_a_block_leaves_the_file_as_it_leaves_the_network(name: str, precision: str) -> None:
    """One block at a time, and all: the same nodes as in a real file without it."""
    files, template = files_of(name), template_of(name, precision)
    names = [block.name for block in files.blocks]
    for dropped in {frozenset(names[:1]), frozenset(names)}:
        made = template.file_at(NetworkState(dropped=dropped))
        require_same(made, files.in_precision(precision, {}, dropped))
        require_runs(made, files.images)


def test_integer_kernels_stay_integer_behind_a_dropped_block(tmp_path: Path) -> None:
    """Biases have the scale of what is read now: onnxruntime runs the same kernels as for the real file."""
    files, template = files_of("mixed"), template_of("mixed", "int8")
    for block in files.blocks:
        made = template.file_at(NetworkState(dropped=frozenset({block.name})))
        real = files.in_precision("int8", {}, {block.name})
        assert kernels(made, tmp_path / "made.onnx") == kernels(real, tmp_path / "real.onnx")


def kernels(model: ModelProto, file: Path) -> Counter[str]:
    """Return how often each operator is in the graph that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(file), 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def test_nodes_have_shapes_as_functions_of_widths_and_the_blocks_that_take_them_away() -> None:
    """A depthwise convolution behind pairs: its weight is constant, and it leaves with its block."""
    files, template = files_of("mixed"), template_of("mixed", "int8")
    node = next(node for node in template.nodes if node.name == "depthwise")
    channels = Axis(0, {"wide": 1.0})
    assert node.operator == "Conv"
    assert node.inputs[0] == (Axis(1, {}), channels, Axis(4, {}), Axis(4, {}))
    assert node.inputs[1][0] == channels
    assert node.outputs[0][1] == channels
    assert node.constant == {1, 2}
    assert node.attributes["group"] == 40
    assert node.attributes["kernel_shape"] == [3, 3]
    assert node.blocks == {files.blocks[1].name}
    assert node.integers
    flat = next(node for node in template.nodes if node.operator == "Gemm")
    assert flat.inputs[0][1] == Axis(0, {"left": 16.0, "right": 16.0})


def test_the_numbers_of_a_state_are_checked() -> None:
    """An unknown group or block, and widths that no group has."""
    template = template_of("mixed", "fp32")
    for state in (NetworkState({"fc": 2}), NetworkState({"stem": 17}), NetworkState({"stem": 0})):
        with pytest.raises(InputError, match="is not in the file's template"):
            template.file_at(state)
    with pytest.raises(InputError, match="Blocks none"):
        template.file_at(NetworkState(dropped=frozenset({"none"})))


def by_hand(*sizes: int, more: bool = False) -> ModelProto:
    """Return a file that rectifies a stored tensor of these sizes, once or twice."""
    stored = numpy_helper.from_array(np.zeros(sizes, np.float32), "stored")
    nodes = [helper.make_node("Relu", ["stored"], ["made"], "first")]
    nodes += [helper.make_node("Relu", ["made"], ["again"], "second")] if more else []
    results = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, sizes)]
    graph = helper.make_graph(nodes, "by hand", [], results, [stored])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


#: Files of Mixed by the widths of two of its groups and how many were made, and what is said of them.
WRONG: dict[str, tuple[Callable[[int, int, int], ModelProto], str]] = {
    "another node": (lambda a, _, made: by_hand(a, more=made > 1), "the file has 1 nodes, and 2 at other widths"),
    "another rank": (lambda a, _, made: by_hand(*[a, 2][: 1 + made % 2]), "node first .* other ranks at other widths"),
    "a square": (lambda a, *_: by_hand(a * a), "node first .* no one size of the network changes like that"),
    "a product": (lambda a, b, _: by_hand(a * b), "node first .* no one size of the network changes like that"),
    "one width after another": (lambda a, b, made: by_hand(b if made > 2 else a), "node first"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_no_function_of_widths_are_refused(name: str) -> None:
    """Other nodes, sizes that grow like none of the network's, and one that the first files tell otherwise."""
    files, (by, message) = files_of("mixed"), WRONG[name]
    made: list[Mapping[str, int]] = []

    def make(widths: Mapping[str, int]) -> ModelProto:
        made.append(widths)
        return by(widths.get("inner", 24), widths.get("wide", 40), len(made))

    with pytest.raises(NoTemplateError, match=message):
        infer_template(make, files.graph, files.grids, ())
    assert len(made) <= 6


def test_a_network_without_a_group_to_narrow_has_a_constant_template() -> None:
    """Grids of one width each: two files, and no function of widths."""
    files, made = files_of("mixed"), []
    template = infer_template(
        lambda widths: made.append(widths) or by_hand(7), files.graph, dict.fromkeys(files.grids, (4,)), ()
    )
    assert made == [{}, {}]
    assert template.nodes[0].outputs == ((Axis(7, {}),),)


def test_groups_without_a_grid_stay_whole() -> None:
    """Half of a concatenation may be narrower: the other half is a constant, of which a state may say the width."""
    files, made = files_of("mixed"), []
    grids = {name: grid for name, grid in files.grids.items() if name != "left"}
    template = infer_template(
        lambda widths: made.append(widths) or by_hand(12 + widths.get("right", 20)), files.graph, grids, ()
    )
    assert template.nodes[0].outputs == ((Axis(12, {"right": 1.0}),),)
    assert len(made) == 3
    file = template.file_at(NetworkState({"left": 12, "right": 3}))
    assert list(file.graph.initializer[0].dims) == [15]
    with pytest.raises(InputError, match="Group left with 11 channels"):
        template.file_at(NetworkState({"left": 11}))


def test_a_block_that_is_not_in_the_file_is_refused() -> None:
    """A file with no sum in it."""
    files = files_of("mixed")
    with pytest.raises(NoTemplateError, match="are not found in the file"):
        infer_template(lambda _: by_hand(7), files.graph, files.grids, files.blocks)


def test_sizes_are_told_apart_by_few_networks() -> None:
    """Thirty groups of one width, their sums, and a multiple of one of them."""
    whole = {f"g{number}": 12 for number in range(30)}
    names = list(whole)
    sums = [Axis(24, dict.fromkeys(names[:count], 1.0)) for count in range(2, 31)]
    narrower = Narrower(whole, sums)
    for function in (*sums, Axis(7, {"g3": 4.0}), Axis(3, {})):
        found = [size_at(function, whole, widths) for widths in narrower.networks]
        assert narrower.function_of(found) == function
    assert narrower.function_of([sum(w.values()) ** 2 for w in narrower.networks]) is None


def test_groups_too_narrow_to_tell_apart_are_refused() -> None:
    """A hundred groups of two channels."""
    with pytest.raises(NoTemplateError, match="too narrow"):
        Narrower({f"g{number}": 2 for number in range(100)}, [])
