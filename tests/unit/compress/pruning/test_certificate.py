"""The certificate holds for the right network alone: every kind of mistake makes it fail."""

from __future__ import annotations

import operator
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.compress.pruning.certificate import DifferentError, Reference, check_values
from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import CapturedGraph, capture_graph
from pipeline.compress.pruning.rewrite import rewrite_module
from pipeline.compress.pruning.surgery import PrunePlan, apply_plan, plan_for
from pipeline.core.errors import StageError
from tests.unit.compress.pruning.networks import Net, conv

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compress.pruning.graph.walk import Walk

Change = dict[str, dict[int, tuple[int, ...]]]
IMAGES = (torch.randn(2, 3, 6, 6),)
DIFFERENT = "not the original without the removed channels"


def small() -> Net:
    """Return two convolutions with batch norm, whose statistics differ, and a linear layer on all pixels."""
    net = Net(
        lambda m, x: m.fc(m.b(m.n(m.a(x)).relu()).flatten(1)),
        a=conv(3, 8),
        n=nn.BatchNorm2d(8),
        b=conv(8, 4),
        fc=nn.Linear(144, 2),
    )
    nn.init.uniform_(net.n.weight)
    net.n.running_mean.copy_(torch.arange(8.0) / 8)
    net.n.running_var.copy_(torch.arange(8.0) / 8 + 1)
    return net.eval()


def split() -> Net:
    """Return a network that states the widths of two parts of one convolution."""
    return Net(
        lambda m, x: sum(f(part) for f, part in zip((m.b, m.c), m.a(x).split([5, 3], 1), strict=True)),
        a=conv(3, 8),
        b=conv(5, 2),
        c=conv(3, 2),
    ).eval()


def traced(net: nn.Module, kept: dict[str, list[int]]) -> tuple[CapturedGraph, Walk, PrunePlan]:
    """Capture and trace a network, and plan what stays."""
    captured = capture_graph(net, IMAGES)
    graph = trace_channels(captured)
    assert graph.walk is not None
    return captured, graph.walk, plan_for(graph, kept)


def changed(plan: PrunePlan, change: Change) -> PrunePlan:
    """Return a plan with other indices for some tensors; without a tensor that changes to nothing."""
    keep = {**plan.keep, **change}
    return PrunePlan({name: dims for name, dims in keep.items() if dims})


#: What is done to the plan that keeps channels 0 to 4 of the first convolution.
MISTAKES: dict[str, tuple[Change, str]] = {
    "consumer shifted by one": ({"b.weight": {1: (1, 2, 3, 4, 5)}}, DIFFERENT),
    "one channel of the consumer is another": ({"b.weight": {1: (0, 1, 2, 3, 7)}}, DIFFERENT),
    "norm shifted by one": ({"n.weight": {0: (1, 2, 3, 4, 5)}}, DIFFERENT),
    "running mean of another channel": ({"n.running_mean": {0: (0, 1, 2, 3, 5)}}, DIFFERENT),
    "bias of another channel": ({"a.bias": {0: (0, 1, 2, 3, 5)}}, DIFFERENT),
    "filters in another order": ({"a.weight": {0: (2, 0, 1, 3, 4)}}, DIFFERENT),
    "consumer whole": ({"b.weight": {}}, "does not run"),
    "filters whole": ({"a.weight": {}}, "does not run"),
    "norm whole": ({"n.running_var": {}}, "does not run"),
    "one channel more in the consumer": ({"b.weight": {1: (0, 1, 2, 3, 4, 7)}}, "does not run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("way", ["in place", "rewritten"])
def test_a_wrong_plan_has_no_certificate(mistake: str, way: str) -> None:
    """Neither in place nor as a rewritten module; and against the right plan, its values are wrong."""
    change, message = MISTAKES[mistake]
    net = small()
    captured, walk, plan = traced(net, {"a": [0, 1, 2, 3, 4]})
    wrong = changed(plan, change)
    candidate = in_place(net, wrong) if way == "in place" else rewrite_module(captured, walk, wrong)
    reference = Reference(captured, walk, wrong)
    with pytest.raises(DifferentError, match=message):
        reference.certify(candidate)
    right = Reference(captured, walk, plan)
    assert right.certify(in_place(net, plan)).relative_error < 1e-10
    assert right.certify(rewrite_module(captured, walk, plan)).relative_error < 1e-10
    with pytest.raises(DifferentError):
        check_values(captured, candidate, plan)


def in_place(net: nn.Module, plan: PrunePlan) -> nn.Module:
    """Return a copy of a network with a plan applied to it."""
    smaller = deepcopy(net)
    apply_plan(smaller, plan)
    return smaller


@pytest.mark.parametrize("pixel", [0, 17, 35])
def test_one_wrong_column_under_a_flatten_is_found(pixel: int) -> None:
    """The 36 columns of channel 3 leave but for one, in whose place a column of channel 0 leaves."""
    net = small()
    captured, walk, plan = traced(net, {"b": [0, 1, 2]})
    columns = sorted({*range(108), 108 + pixel} - {pixel})
    wrong = changed(plan, {"fc.weight": {1: tuple(columns)}})
    with pytest.raises(DifferentError, match=DIFFERENT):
        Reference(captured, walk, wrong).certify(in_place(net, wrong))


@pytest.mark.parametrize(
    ("sizes", "message"), [([2, 3], "does not run"), ([4, 2], "does not run"), ([5, 3], "not run")]
)
def test_a_rewritten_module_with_wrong_sizes_has_no_certificate(sizes: list[int], message: str) -> None:
    """The plan leaves 3 channels of the first part and 2 of the second."""
    captured, walk, plan = traced(split(), {"a": [0, 2, 4], "a:2": [0, 1]})
    module = rewrite_module(captured, walk, plan)
    reference = Reference(captured, walk, plan)
    assert reference.certify(module).relative_error < 1e-10
    (node,) = (node for node in module.graph.nodes if node.target is torch.ops.aten.split_with_sizes.default)
    assert node.args[1] == [3, 2]
    node.update_arg(1, sizes)
    module.recompile()
    with pytest.raises(DifferentError, match=message):
        reference.certify(module)


def test_swapped_parts_of_equal_size_are_found() -> None:
    """With 3 channels left in each part the shapes fit, but each layer reads the other's channels."""
    captured, walk, plan = traced(split(), {"a": [0, 2, 4], "a:2": [0, 1, 2]})
    module = rewrite_module(captured, walk, plan)
    first, second = (node for node in module.graph.nodes if node.target is operator.getitem)
    first.args, second.args = (first.args[0], second.args[1]), (second.args[0], first.args[1])
    module.recompile()
    with pytest.raises(DifferentError, match=DIFFERENT):
        Reference(captured, walk, plan).certify(module)


@pytest.mark.parametrize(
    "other",
    [
        lambda m, x: m.fc(m.b(m.n(m.a(x))).flatten(1)),
        lambda m, x: m.fc(m.b(m.n(m.a(x)).relu()).flatten(1)) * 1.000001,
        lambda m, x: m.fc(m.b(m.n(m.a(x)).relu()).transpose(2, 3).flatten(1)),
        lambda m, x: m.fc(m.b(m.n(m.a(x)).relu()).flatten(1)).flip(1),
    ],
    ids=["activation missing", "scaled by a millionth", "pixels transposed", "classes in another order"],
)
def test_another_function_of_the_same_tensors_has_no_certificate(other: Callable[[Net, Tensor], Tensor]) -> None:
    """All tensors are right; what is computed from them is not."""
    net = small()
    captured, walk, plan = traced(net, {"a": [0, 2, 4, 6]})
    candidate = in_place(net, plan)
    candidate.function = other
    with pytest.raises(DifferentError, match=DIFFERENT):
        Reference(captured, walk, plan).certify(candidate)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda m, x: m.fc(m.b(m.n(m.a(x)).relu()).flatten(1))[:, :1], r"shapes \[\(2, 1\)\], expected \[\(2, 2\)\]"),
        (lambda m, x: (m.fc(m.b(m.n(m.a(x)).relu()).flatten(1)), x), r"expected \[\(2, 2\)\]"),
    ],
    ids=["a class less", "an output more"],
)
def test_outputs_have_the_same_shapes(other: Callable[[Net, Tensor], Tensor], message: str) -> None:
    """The message has both."""
    net = small()
    captured, walk, plan = traced(net, {"a": [0, 2, 4, 6]})
    candidate = in_place(net, plan)
    candidate.function = other
    with pytest.raises(DifferentError, match=message):
        Reference(captured, walk, plan).certify(candidate)


def test_a_smaller_scale_of_attention_is_found() -> None:
    """In place, fused attention would divide by the root of the smaller head: no certificate."""
    net = Net(
        lambda m, x: m.proj(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x))),
        q=nn.Linear(6, 8),
        k=nn.Linear(6, 8),
        v=nn.Linear(6, 8),
        proj=nn.Linear(8, 2),
    ).eval()
    captured, walk, plan = traced(net, {"q": [0, 2, 5, 6]})
    reference = Reference(captured, walk, plan)
    with pytest.raises(DifferentError, match=DIFFERENT):
        reference.certify(in_place(net, plan))
    assert reference.certify(rewrite_module(captured, walk, plan)).relative_error < 1e-10


def test_a_tensor_of_the_wrong_size_is_named() -> None:
    """A candidate that was pruned by another plan."""
    net = small()
    captured, walk, plan = traced(net, {"a": [0, 2, 4, 6]})
    _, _, other = traced(net, {"a": [0, 2, 4]})
    with pytest.raises(DifferentError, match=r"Tensor 'a\.weight' has shape \(3, 3, 3, 3\), expected \(4, 3, 3, 3\)"):
        Reference(captured, walk, plan).certify(in_place(net, other))


def test_a_network_that_does_not_run_is_named_by_its_line() -> None:
    """The message has file, line and code."""
    net = split()
    captured, walk, plan = traced(net, {"a": [0, 2, 4]})
    with pytest.raises(DifferentError, match=r"does not run: .* at test_certificate\.py:\d+ `.*m\.a\(x\)\.split"):
        Reference(captured, walk, plan).certify(in_place(net, plan))


def test_certifying_changes_nothing() -> None:
    """Values, data types and modes of both networks are as before, and a second certificate is the same."""
    net = small().train()
    captured, walk, plan = traced(net, {"a": [0, 2, 4, 6]})
    candidates = (in_place(net, plan), rewrite_module(captured, walk, plan).train())
    states = [deepcopy(each.state_dict()) for each in (net, *candidates)]
    for candidate in candidates:
        first, second = (Reference(captured, walk, plan).certify(candidate) for _ in range(2))
        assert first == second
        assert 0 <= first.relative_error < 1e-10
        assert first.statistics == ()
    for each, state in zip((net, *candidates), states, strict=True):
        assert all(module.training for module in each.modules())
        assert all(torch.equal(state[key], value) for key, value in each.state_dict().items())
        assert all(state[key].dtype == value.dtype for key, value in each.state_dict().items())


def test_values_that_hide_mistakes_are_disturbed() -> None:
    """With equal filters, zero biases and unit variances, a misplaced channel would change nothing."""
    net = small()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.full_like(parameter, 0.1))
    captured, walk, plan = traced(net, {"a": [0, 2, 4, 6]})
    for tensor, dim in (("b.weight", 1), ("n.weight", 0), ("a.weight", 0)):
        wrong = changed(plan, {tensor: {dim: (0, 2, 4, 7)}})
        with pytest.raises(DifferentError, match=DIFFERENT):
            Reference(captured, walk, wrong).certify(in_place(net, wrong))


def test_integers_are_inputs_of_the_same_values() -> None:
    """Tokens of the random batch are those of the example, so that every index is valid."""
    net = Net(lambda m, x: m.fc(m.table(x)), table=nn.Embedding(1000, 4), fc=nn.Linear(4, 2))
    captured = capture_graph(net, (torch.tensor([[3, 998, 5], [7, 7, 9]]),))
    graph = trace_channels(captured)
    assert graph.walk is not None
    reference = Reference(captured, graph.walk, PrunePlan({}))
    assert set(reference.batch[0].flatten().tolist()) <= {3, 998, 5, 7, 9}
    assert reference.certify(net).max_error == 0


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda m, x: m.a(x) * 0.0, "outputs of scale 0.0: nothing can be certified"),
        (lambda m, x: m.a(x) / 0.0, "outputs of scale inf: nothing can be certified"),
        (lambda m, x: m.a(x).argmax(1), "outputs of scale 0.0: nothing can be certified"),
        (lambda m, x: m.a(x) + m.n(x.float()), "needs a network that runs in float64; it fails: "),
    ],
    ids=["all zero", "infinite", "no numbers", "one type only"],
)
def test_what_cannot_be_certified_is_a_stage_error(forward: Callable[[Net, Tensor], Tensor], message: str) -> None:
    """It is no fault of the plan, so the caller need not try another way."""
    net = Net(forward, a=conv(3, 3), n=Single()).eval()
    captured = capture_graph(net, IMAGES)
    graph = trace_channels(captured)
    assert graph.walk is not None
    with pytest.raises(StageError, match=message) as caught:
        Reference(captured, graph.walk, PrunePlan({}))
    assert not isinstance(caught.value, DifferentError)


@torch.library.custom_op("secateur_tests::single", mutates_args=())
def single(x: Tensor) -> Tensor:
    """Copy numbers of single precision alone."""
    if x.dtype is not torch.float32:
        raise TypeError(f"{x.dtype} is not supported")
    return x.clone()


@single.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Single(nn.Module):
    """A layer by an operator that knows one data type."""

    def forward(self, x: Tensor) -> Tensor:
        """Copy the input."""
        return single(x)


def test_changed_values_are_found() -> None:
    """A pruned network whose weights are not the original's, or are in another order, is refused by name."""
    net = small()
    captured, _, plan = traced(net, {"a": [0, 2, 4, 6]})
    for name, change in (
        ("fc.bias", lambda tensor: tensor.add_(torch.tensor([0.0, 1e-6]))),
        ("a.weight", lambda tensor: tensor.copy_(tensor[[1, 0, 2, 3]].clone())),
        ("n.running_mean", lambda tensor: tensor.sub_(1.0)),
    ):
        smaller = in_place(net, plan)
        check_values(captured, smaller, plan)
        with torch.no_grad():
            change(smaller.state_dict()[name])
        with pytest.raises(DifferentError, match=f"Tensor '{name}' of the pruned network is not what the plan keeps"):
            check_values(captured, smaller, plan)


def test_values_of_shared_tensors_are_found_under_each_name() -> None:
    """The second name of a tied weight is held against the first's plan."""
    net = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    net[2].weight = net[1].weight
    captured = capture_graph(net, (torch.randn(2, 3),))
    plan = plan_for(trace_channels(captured), {"0": [1, 5, 6]})
    smaller = in_place(net, plan)
    check_values(captured, smaller, plan)
    smaller[2].weight = nn.Parameter(smaller[2].weight.detach() + 1)
    with pytest.raises(DifferentError, match=r"Tensor '2\.weight'"):
        check_values(captured, smaller, plan)


def test_a_graph_module_is_run_in_double() -> None:
    """A graph that casts to single precision is compared without that rounding."""
    net = Net(lambda m, x: m.b(m.a(x).to(torch.float32)), a=conv(3, 4), b=conv(4, 2)).eval()
    captured, walk, plan = traced(net, {"a": [1, 3]})
    module = rewrite_module(captured, walk, plan)
    assert isinstance(module, fx.GraphModule)
    assert Reference(captured, walk, plan).certify(module).relative_error < 1e-10
