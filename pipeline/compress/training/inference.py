"""Running a network for its outputs alone, whatever mode it was in before, and saying where it failed."""

from __future__ import annotations

import random
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from traceback import extract_tb
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils._pytree import MappingKey, tree_flatten_with_path, tree_leaves

from pipeline.core.errors import InputError
from pipeline.core.user_code import error_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from torch import Tensor, nn

    Hook = Callable[[nn.Module, Any, Any], None]

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Within the block: dropout off, batch norm on its running statistics, no gradients. Modes are then restored.

    The fused layer of nn.TransformerEncoder is off too: it hides its products from graphs and counters.
    """
    training = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, flag in training.items():
            module.training = flag


@contextmanager
def in_training(model: nn.Module) -> Iterator[None]:
    """Within the block the network trains, as its own `train()` says. Modes are then restored."""
    training = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


@contextmanager
def forward_hooks(modules: Iterable[tuple[str, nn.Module]], hook_of: Callable[[str], Hook]) -> Iterator[None]:
    """Within the block every module calls the hook of its name when its forward ends: with itself, inputs, output."""
    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def seeded_random() -> Iterator[None]:
    """Give all sources of random numbers the same start, and their state back afterwards."""
    python, state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that networks draw from
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(state)  # noqa: NPY002


def forward_outputs(model: nn.Module, batch: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return every tensor that the network returns for `batch`, in order; containers are flattened.

    `batch` is the input, or a tuple of all inputs. A forward that writes into its input writes into a copy.
    """
    with inference_mode(model):
        result = model(*(each.clone() for each in (batch if isinstance(batch, tuple) else (batch,))))
        return tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))


def named_outputs(result: object, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return every tensor that a forward returned, by name, in the order in which an export has them.

    Without `names` those are the keys under which forward returns them, else output, output_2, ... Raises InputError
    where there is another number of names.
    """
    leaves = [(path, leaf) for path, leaf in tree_flatten_with_path(result)[0] if isinstance(leaf, torch.Tensor)]
    if names and len(names) != len(leaves):
        raise InputError(f"the network gives {len(leaves)} outputs, the task names {len(names)}: {', '.join(names)}")
    keys = [".".join(str(key.key) for key in path if isinstance(key, MappingKey)) for path, _ in leaves]
    plain = [f"output_{index + 1}" if index else "output" for index in range(len(leaves))]
    chosen = names or (keys if all(keys) and len({*keys}) == len(keys) else plain)
    return {name: leaf for name, (_, leaf) in zip(chosen, leaves, strict=True)}


def failing_line(error: Exception) -> str:
    """Return the line of the network's own code that failed: 'model.py:12 `x = x.view(-1, 800)`'."""
    if found := error_origin(error, layers=False):
        return found.place
    own = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(_NOT_THE_USERS)]
    if not own:
        return "an unknown line"
    code = shorten(own[-1].line or "", 100, placeholder=" ...")
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} `{code}`"
