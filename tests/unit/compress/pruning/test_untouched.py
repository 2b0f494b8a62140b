"""Capturing leaves a network as it was: whatever its forward keeps is put back."""

from __future__ import annotations

import functools
from collections import deque
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from pipeline.compress.pruning.graph.capture import capture_graph
from pipeline.core.errors import InputError
from tests.unit.compress.pruning.networks import conv

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = (torch.randn(2, 3, 6, 6),)
GRIDS: dict[Any, Tensor] = {}


@functools.lru_cache
def cached_grid(size: int) -> Tensor:
    """Return positions, made once."""
    return torch.arange(float(size))


class Keeper(nn.Module):
    """A network whose forward keeps something in itself."""

    by_class: ClassVar[dict[Any, Tensor]] = {}
    latest: ClassVar[Any] = None

    def __init__(self, keep: Callable[[Keeper, Tensor], Any]) -> None:
        super().__init__()
        self.keep = keep
        self.a, self.n = conv(3, 4), nn.BatchNorm2d(4)
        self.register_buffer("seen", torch.zeros(()))
        self.plain, self.calls, self.shape = torch.zeros(6), 0, None
        self.table, self.listed, self.rows = {"x": [torch.ones(2)]}, [1, 2], deque([3])
        self.other = SimpleNamespace(grid=torch.ones(6), names=["a"])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, and keep something."""
        y = self.n(self.a(x))
        kept = self.keep(self, y)
        return y + kept if isinstance(kept, Tensor) else y


def by_shape(m: Keeper, y: Tensor) -> Tensor:
    """Make a grid when the shape is another one, as detectors do."""
    if m.shape != y.shape:
        m.shape, m.grid = y.shape, torch.arange(6.0).expand(y.shape[0], 1, 6, 6)
    return m.grid


def in_file(_: Keeper, y: Tensor) -> Tensor:
    """Keep a grid in a dictionary of this file."""
    if y.shape[-1] not in GRIDS:
        GRIDS[y.shape[-1]] = torch.arange(6.0)
    return GRIDS[y.shape[-1]]


def in_class(m: Keeper, y: Tensor) -> Tensor:
    """Keep a grid in a dictionary of the class, and the input's shape in an attribute of it."""
    type(m).latest = y.shape
    return m.by_class.setdefault(y.shape[-1], torch.arange(6.0))


def renewed(m: Keeper, y: Tensor) -> None:
    """Replace a layer and move a hook."""
    m.n = nn.Identity()
    m.a.register_forward_hook(lambda *_: None)
    m.register_buffer("late", torch.zeros(len(y)))


KEEPERS: dict[str, Callable[[Keeper, Tensor], Any]] = {
    "nothing": lambda m, y: None,  # noqa: ARG005
    "grid by shape": by_shape,
    "grid of the file": in_file,
    "grid of the class": in_class,
    "cached function": lambda m, y: cached_grid(y.shape[-1]),  # noqa: ARG005
    "number": lambda m, y: setattr(m, "calls", m.calls + len(y)),
    "buffer": lambda m, y: m.seen.add_(1),  # noqa: ARG005
    "new buffer": lambda m, y: setattr(m, "seen", y.mean()),
    "plain tensor": lambda m, y: setattr(m, "plain", y[0, 0, 0] + m.plain),
    "nested containers": lambda m, y: m.table["x"].append(y),
    "list": lambda m, y: m.listed.append(y),
    "queue": lambda m, y: m.rows.append(y.shape),
    "object": lambda m, y: setattr(m.other, "grid", y[0, 0]),
    "names of an object": lambda m, y: m.other.names.append(y),
    "mode": lambda m, y: m.n.train() and None,  # noqa: ARG005
    "layers, hooks and buffers": renewed,
    "gone": lambda m, y: m.__dict__.pop("calls", None) and None,  # noqa: ARG005
}


def described(value: Any, seen: set[int] | None = None) -> Any:  # noqa: ANN401
    """Return all that an object holds as plain values."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return type(value), value.requires_grad, value.dtype, value.detach().clone().tolist()
    if isinstance(value, dict):
        return [(str(key), described(each, seen)) for key, each in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return type(value), [described(each, seen) for each in value]
    if hasattr(value, "__dict__") and not isinstance(value, type) and id(value) not in seen:
        seen.add(id(value))
        return type(value), described(vars(value), seen)
    return str(type(value) if callable(value) else value)


AFTER_A_PASS = ("grid by shape", "grid of the class", "nested containers")


@pytest.mark.parametrize(("name", "before"), [*((name, False) for name in KEEPERS), *((n, True) for n in AFTER_A_PASS)])
@torch.no_grad()
def test_capturing_leaves_no_trace(name: str, before: bool) -> None:  # noqa: FBT001
    """All that the network, its class and its file hold is as before, and it still runs on any batch."""
    GRIDS.clear()
    Keeper.by_class.clear()
    Keeper.latest = None
    cached_grid.cache_clear()
    net = Keeper(KEEPERS[name]).eval()
    net.n.train()
    if before:
        net(*IMAGES)
    expected = deepcopy(net)(torch.ones(3, 3, 6, 6)).tolist()
    state = described(net), described(GRIDS), described(Keeper.by_class), described(Keeper.latest)
    try:
        capture_graph(net, IMAGES)
    except InputError:
        assert name == "new buffer"
    assert (described(net), described(GRIDS), described(Keeper.by_class), described(Keeper.latest)) == state
    assert net(torch.ones(3, 3, 6, 6)).tolist() == expected
