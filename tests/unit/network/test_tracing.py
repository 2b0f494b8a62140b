"""Example inputs of an artifact's shapes, and images in batches that a network takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.core.artifact import Artifact, TensorSpec
from pipeline.core.errors import InputError
from pipeline.core.stage import Context, Target
from pipeline.network.tracing import example_of, samples_of


def artifact(*inputs: TensorSpec) -> Artifact:
    """Return an artifact with these inputs."""
    return Artifact(form="torch", folder=Path(), digest="", inputs=inputs, outputs=())


def test_one_tensor_for_each_input() -> None:
    """A batch of two whatever the artifact's own; integers are valid indices; the same numbers every time."""
    given = artifact(TensorSpec(name="x", shape=(-1, 3, 4)), TensorSpec(name="ids", shape=(1, 5), dtype="int64"))
    images, ids = example_of(given)
    assert (images.shape, ids.shape) == ((2, 3, 4), (2, 5))
    assert (images.dtype, ids.dtype) == (torch.float32, torch.int64)
    assert not ids.any()
    assert torch.equal(images, example_of(given)[0])


def test_sizes_beside_the_batch_are_fixed() -> None:
    """A free height cannot be followed."""
    with pytest.raises(InputError, match=r"fixed sizes apart from the batch; found x \(-1, 3, -1\)"):
        example_of(artifact(TensorSpec(name="x", shape=(-1, 3, -1))))


@pytest.mark.parametrize(("dynamic", "batch", "whole"), [(True, 64, False), (False, 2, True)])
def test_a_network_of_fixed_batch_gets_that_batch(*, dynamic: bool, batch: int, whole: bool) -> None:
    """Where the code fixes the batch, it is the example's, and no batch is smaller."""
    captured: Any = SimpleNamespace(dynamic=dynamic, example=(torch.zeros(2, 1),))
    original = artifact(TensorSpec(name="x", shape=(-1, 1)))
    context = Context(Path(), 7, Target(), original, lambda: pytest.fail("not needed yet"))
    found = samples_of(captured, context, 100, 64)
    assert (found.batch, found.drop_last, found.seed, found.images) == (batch, whole, 7, 100)
