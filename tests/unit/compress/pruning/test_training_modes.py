"""What was certified can be trained: heads and branches of training alone, norms, dropout, and noise in evaluation."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Self

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.compress.pruning.graph import trace_channels
from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.compress.pruning.prune import PrunedNetwork, prune_channels
from pipeline.compress.pruning.trial import difference, step
from pipeline.core.errors import InputError, StageError
from tests.unit.compress.pruning.networks import IMAGE, Net, conv, halved, masked_error

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = (torch.randn(*IMAGE[0]),)
MATRIX = torch.rand(6, 6)
COMPARED = "outputs compared, one step tried"


class FrozenNorm(Net):
    """A network whose norms stay in evaluation, as detectors fine-tune them."""

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - as torch declares it
        """Train all but the norm."""
        super().train(mode)
        self.n.eval()
        return self


def with_head(m: Net, x: Tensor) -> Any:  # noqa: ANN401
    """Return a second result in training."""
    y = m.n(m.a(x)).relu()
    z = m.b(y)
    return (z, m.aux(y)) if m.training else z


def with_long_head(m: Net, x: Tensor) -> Any:  # noqa: ANN401
    """Return a second result of several layers in training, as a dictionary."""
    y = m.n(m.a(x)).relu()
    z = m.b(y)
    return {"out": z, "aux": m.aux2(m.aux(F.dropout(y)).relu())} if m.training else {"out": z}


def stated(m: Net, x: Tensor) -> Any:  # noqa: ANN401
    """Count channels in training alone."""
    y = m.n(m.a(x)).relu()
    return m.b(y) + (y.view(len(x), 8, 36).mean((1, 2))[:, None, None, None] if m.training else 0)


def literal(norm: Callable[[Net, Tensor], Tensor]) -> Callable[[Net, Tensor], Tensor]:
    """Return a forward that can only be rewritten."""
    return lambda m, x: m.b(norm(m, m.a(x)).view(-1, 8, 6, 6))


def layers(**more: nn.Module) -> dict[str, Any]:
    """Return the layers of all networks here."""
    return {"a": conv(3, 8), "n": nn.BatchNorm2d(8), "b": conv(8, 2), **more}


#: The network, what is known of training, and a part of the reason why it is rewritten.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "a second head": (lambda: Net(with_head, **layers(aux=conv(8, 2))), COMPARED, ""),
    "a second head of several layers": (
        lambda: Net(with_long_head, **layers(aux=conv(8, 6), aux2=conv(6, 2))),
        COMPARED,
        "",
    ),
    "a layer that nothing uses": (lambda: Net(lambda m, x: m.b(m.n(m.a(x))), **layers(idle=conv(8, 2))), COMPARED, ""),
    "batch norm rewritten": (lambda: Net(literal(lambda m, y: m.n(y)), **layers()), COMPARED, "does not run"),
    "batch norm without statistics": (
        lambda: Net(literal(lambda m, y: m.n(y)), **layers(n=nn.BatchNorm2d(8, track_running_stats=False))),
        COMPARED,
        "does not run",
    ),
    "plain average": (
        lambda: Net(literal(lambda m, y: m.n(y)), **layers(n=nn.BatchNorm2d(8, momentum=None))),
        COMPARED,
        "does not run",
    ),
    "momentum of zero": (
        lambda: Net(literal(lambda m, y: m.n(y)), **layers(n=nn.BatchNorm2d(8, momentum=0.0))),
        COMPARED,
        "does not run",
    ),
    "instance norm with statistics": (
        lambda: Net(
            literal(lambda m, y: m.n(y)), **layers(n=nn.InstanceNorm2d(8, affine=True, track_running_stats=True))
        ),
        COMPARED,
        "does not run",
    ),
    "norm that stays in evaluation": (
        lambda: FrozenNorm(literal(lambda m, y: m.n(y)), **layers()),
        COMPARED,
        "does not run",
    ),
    "dropout": (lambda: Net(literal(lambda m, y: m.d(m.n(y))), **layers(d=nn.Dropout(0.4))), COMPARED, "does not run"),
    "dropout that is never on": (
        lambda: Net(literal(lambda m, y: F.dropout(m.n(y), 0.5, training=False)), **layers()),
        COMPARED,
        "does not run",
    ),
    "dropout that is always on": (
        lambda: Net(literal(lambda m, y: F.dropout(m.n(y), 0.5, training=True)), **layers()),
        COMPARED,
        "does not run",
    ),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_as_the_originals(name: str) -> None:
    """The certificate says what is known, and statistics and gradients go where the original's go."""
    build, training, reason = NETWORKS[name]
    net = build().eval()
    captured, graph, pruned = halved(net, IMAGES)
    assert [group.name for group in graph.groups] == ["a"]
    assert (pruned.certificate.modes, pruned.certificate.training) == (("evaluation", "training"), training)
    assert reason in pruned.rewritten
    assert bool(reason) == bool(pruned.rewritten)
    assert difference(step(net, IMAGES), step(pruned.model, IMAGES)) == ""
    if "always" not in name and not captured.foreign:
        assert masked_error(net, pruned, IMAGES) < 1e-9


@pytest.mark.parametrize("name", [name for name, (_, _, reason) in NETWORKS.items() if reason])
def test_a_rewritten_network_in_training(name: str) -> None:
    """With all channels, its outputs and statistics after a step are the network's own to the last bits."""
    net = NETWORKS[name][0]().eval()
    captured = capture_graph(net, IMAGES)
    graph = trace_channels(captured)
    found = rewritten(net, IMAGES)
    assert graph.groups
    for mode in (True, False):
        outputs = []
        for each in (net.train(mode), found.train(mode)):
            torch.manual_seed(1)
            outputs.append(each(*IMAGES))
        torch.testing.assert_close(outputs[1], outputs[0])
    for key, value in net.state_dict().items():
        torch.testing.assert_close(found.state_dict().get(key, value), value)


def rewritten(net: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    """Return a network that is written anew without a loss."""
    from pipeline.compress.pruning.rewrite import rewrite_module, training_switches  # noqa: PLC0415
    from pipeline.compress.pruning.surgery import PrunePlan  # noqa: PLC0415

    captured = capture_graph(net, example)
    walk = trace_channels(captured).walk
    assert walk is not None
    return rewrite_module(captured, walk, PrunePlan({}), training_switches(captured, net))


def test_what_is_lost_by_rewriting_is_said() -> None:
    """A head of training alone is not in a network that is written anew from the graph of evaluation."""
    _, _, pruned = halved(Net(with_literal_head, **layers(aux=conv(8, 2))).eval(), IMAGES)
    assert pruned.certificate.modes == ("evaluation",)
    assert pruned.certificate.training == (
        "in training it returns [2, 2, 6, 6] instead of [2, 2, 6, 6] and [2, 2, 6, 6]"
    )


def test_a_branch_of_training_alone() -> None:
    """A width that training states is a reason to write the network anew, and what it computes there is lost."""
    _, _, pruned = halved(Net(stated, **layers()).eval(), IMAGES)
    assert "in training it fails: shape '[2, 8, 36]'" in pruned.rewritten
    assert pruned.certificate.modes == ("evaluation",)
    assert "in training its outputs are others" in pruned.certificate.training


def test_stochastic_depth_is_lost_by_rewriting() -> None:
    """Noise that the graph of evaluation does not have is named."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).view(-1, 8, 6, 6)
        return m.b(y * y.new_empty(len(x), 1, 1, 1).bernoulli_(0.9) / 0.9 if m.training else y)

    _, _, pruned = halved(Net(forward, **layers()).eval(), IMAGES)
    assert pruned.certificate.training == "in training it lacks bernoulli in the network"


def with_literal_head(m: Net, x: Tensor) -> Any:  # noqa: ANN401
    """Count channels, and return a second result in training."""
    y = m.a(x).view(-1, 8, 6, 6)
    return (m.b(y), m.aux(y)) if m.training else m.b(y)


def test_a_network_that_cannot_be_trained_is_said() -> None:
    """Evaluation alone is certified, with the reason."""

    def forward(m: Net, x: Tensor) -> Tensor:
        if m.training:
            raise ValueError("give targets")
        return m.b(m.a(x))

    _, _, pruned = halved(Net(forward, a=conv(3, 8), b=conv(8, 2)).eval(), IMAGES)
    assert pruned.certificate.modes == ("evaluation",)
    assert "not tried, the original fails there: give targets at test_training_modes.py:" in pruned.certificate.training


NOISE: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "normal numbers": lambda m, x: m.b(m.a(x).relu() + torch.randn_like(x[:, :1])),
    "noise of every channel": lambda m, x: m.b(m.a(x) + torch.randn_like(m.a(x))),
    "dropout left on": lambda m, x: m.b(F.dropout(m.a(x))),
    "channels dropped": lambda m, x: m.b(F.dropout2d(m.a(x))),
    "masks": lambda m, x: m.b(m.a(x) * torch.bernoulli(torch.full_like(m.a(x), 0.5))),
    "uniform numbers of a size": lambda m, x: m.b(m.a(x) * torch.rand(x.shape[0], 1, 6, 6)),
}


@pytest.mark.parametrize("forward", NOISE.values(), ids=NOISE)
def test_noise_in_evaluation_is_no_fault(forward: Callable[[Net, Tensor], Tensor]) -> None:
    """Channels leave all the same: the certificate holds the noise constant."""
    _, graph, pruned = halved(Net(forward, a=conv(3, 8), b=conv(8, 2)).eval(), IMAGES)
    assert [group.width for group in graph.groups] == [8]
    assert pruned.rewritten == ""
    assert pruned.certificate.relative_error < 1e-10


@pytest.mark.parametrize(
    "choice", [random.random, lambda: float(torch.multinomial(torch.ones(50), 1))], ids=["python", "torch"]
)
def test_choices_that_no_graph_keeps_are_told(choice: Callable[[], float]) -> None:
    """It is not the rules that are wrong."""
    net = Net(lambda m, x: m.b(m.a(x) * (1 + random_number(choice))), a=conv(3, 8), b=conv(8, 2)).eval()
    captured = capture_graph(net, IMAGES)
    with pytest.raises(InputError, match=r"other outputs for the same input in every run.*`eval\(\)`"):
        prune_channels(captured, trace_channels(captured), net, {"a": [0, 1]})


def random_number(choice: Callable[[], float]) -> float:
    """Return a number that is another one in every call, while a network is exported too."""
    return random.random() if torch.compiler.is_exporting() else choice()  # noqa: S311


def masked(m: Net, x: Tensor) -> Tensor:
    """Leave out pixels by the least number of the type, as attention does."""
    return m.b(m.a(x).masked_fill(x[:, :1] > 1, torch.finfo(x.dtype).min).softmax(3))


EXACT: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "integers divided": lambda m, x: m.b((m.a(x).sigmoid() * 255).round().to(torch.uint8) / 255.0),
    "a cast": lambda m, x: m.b(m.a(x).float().relu()),
    "a cast and back": lambda m, x: m.b(m.a(x.half().to(x.dtype))),
    "an image mean": lambda m, x: m.b(m.a(x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))),
    "a table of numbers": lambda m, x: m.b(m.a(x) + torch.linspace(0, 1, 6) + torch.arange(0, 0.6, 0.1)),
    "a plain tensor": lambda m, x: m.b(m.a(x) * m.plain),
    "a matrix of the file": lambda m, x: m.b(m.a(x) @ MATRIX),
    "tensors in a list": lambda m, x: m.b(m.a(x) @ m.listed[0]),
    "the least number of a type": lambda m, x: m.b(m.a(x) / (x.abs().mean() + 1e5 * torch.finfo(x.dtype).eps)),
    "masked by the largest number": lambda m, x: m.b(
        m.a(x).masked_fill(x[:, :1] > 1, torch.finfo(x.dtype).min).softmax(3)
    ),
    "a matrix that is no buffer": lambda m, x: m.b(m.a(x) @ m.matrix),
}


@pytest.mark.parametrize("forward", EXACT.values(), ids=EXACT)
def test_in_place_wherever_it_can_be(forward: Callable[[Net, Tensor], Tensor]) -> None:
    """Rounding, casts and constants of the network's own are no reason to write it anew."""
    net = Net(forward, a=conv(3, 8), b=conv(8, 2)).eval()
    net.plain, net.matrix, net.listed = torch.tensor([0.1]), torch.rand(6, 6), [torch.rand(6, 6)]
    _, _, pruned = halved(net, IMAGES)
    assert pruned.rewritten == ""
    assert pruned.certificate.relative_error < 1e-10


def test_computed_weights_beside_what_leaves() -> None:
    """A weight norm whose layer stays whole does not keep the others from leaving in place."""
    net = Net(
        lambda m, x: m.w(m.b(m.a(x)))[:, :, 0, 0],
        a=conv(3, 8),
        b=conv(8, 4),
        w=nn.utils.parametrizations.weight_norm(conv(4, 2)),
    )
    captured = capture_graph(net.eval(), IMAGES)
    pruned = prune_channels(captured, trace_channels(captured), net, {"a": [0, 3]})
    assert pruned.rewritten == ""


def test_another_batch_when_all_outputs_are_zero() -> None:
    """A network that is silent for the first random batch is certified on another one."""

    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(m.a(x)) * (x.flatten(1)[:, :1] > threshold)[:, :, None, None]

    generator = torch.Generator().manual_seed(0)
    shape = IMAGES[0].shape
    first = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)][1]
    threshold = float(first.flatten(1)[:, 0].max())
    found: PrunedNetwork = halved(Net(forward, a=conv(3, 8), b=conv(8, 2)).eval(), IMAGES)[2]
    assert found.certificate.scale > 0


def test_a_network_that_keeps_its_last_result_is_copied() -> None:
    """A tensor with a history cannot be copied by Python alone."""

    def forward(m: Net, x: Tensor) -> Tensor:
        m.last = m.a(x)
        return m.b(m.last)

    net = Net(forward, a=conv(3, 8), b=conv(8, 2)).eval()
    net(*IMAGES)
    assert net.last.grad_fn is not None
    assert halved(net, IMAGES)[2].rewritten == ""


def test_a_rewritten_network_takes_the_batches_of_the_original() -> None:
    """What the code fixes for good cannot be written anew without a word."""

    def forward(m: Net, x: Tensor) -> Tensor:
        if m.shape is None:
            m.shape = x.shape
        kept = m.a(x).view(m.shape[0] if len(x) == m.shape[0] else -1, 8, 6, 6)
        return m.b(kept if len(x) == 2 else kept * 1)

    net = Net(forward, a=conv(3, 8), b=conv(8, 2)).eval()
    net.shape = torch.Size([2, 3, 6, 6])
    captured = capture_graph(net, IMAGES)
    if captured.dynamic:
        assert (
            len(prune_channels(captured, trace_channels(captured), net, {"a": [0, 1]}).model(torch.randn(5, 3, 6, 6)))
            == 5
        )
    else:
        with pytest.raises(StageError, match="its graph does not"):
            prune_channels(captured, trace_channels(captured), net, {"a": [0, 1]})
