"""Block Fisher matrices: rank-1 updates against dense inverses, several weights at once, all layers together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.compress.sparsity.block_fisher import (
    add_gradients,
    compensate_blocks,
    fisher_bytes,
    initial_inverses,
    prune_blocks,
    weight_blocks,
)
from pipeline.core.errors import InputError, StageError


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inverses_of(gradients_Nd: Tensor, block: int, damping: float, parts: int = 1) -> Tensor:
    """Return inverse blocks by rank-1 updates, from gradients in so many parts."""
    blocks = weight_blocks(gradients_Nd, block)
    found = initial_inverses(blocks.shape[1], block, damping).contiguous()
    for part in blocks.chunk(parts):
        add_gradients(found, part, len(gradients_Nd))
    return found


def dense_inverses(gradients_Nd: Tensor, block: int, damping: float) -> Tensor:
    """Return the same by dense inverses."""
    blocks = weight_blocks(gradients_Nd, block).transpose(0, 1)
    return torch.linalg.inv(blocks.transpose(1, 2) @ blocks / len(gradients_Nd) + damping * torch.eye(block).double())


@pytest.mark.parametrize("parts", [1, 3])
def test_rank_one_updates_give_the_dense_inverse(parts: int) -> None:
    """All gradients at once or in parts, the last block filled up."""
    gradients = drawn(30, 23)
    found = inverses_of(gradients, 6, 1e-3, parts)
    torch.testing.assert_close(found, dense_inverses(gradients, 6, 1e-3), rtol=1e-7, atol=1e-9)
    assert found.numel() * 8 == fisher_bytes(23, 6)


def test_many_blocks_are_updated_in_parts() -> None:
    """More blocks than are worked on together."""
    gradients = drawn(4, 50 * 120)
    torch.testing.assert_close(inverses_of(gradients, 50, 0.1), dense_inverses(gradients, 50, 0.1))


def test_several_weights_leave_a_block_in_the_cheapest_way() -> None:
    """No kept weight can lower the predicted loss."""
    weight, gradients = drawn(1, 5, seed=1), drawn(40, 5, seed=2)
    fisher = gradients.T @ gradients / 40 + 0.01 * torch.eye(5).double()
    kept = torch.tensor([[True, False, True, False, True]])
    new, loss = compensate_blocks(weight, kept, torch.linalg.inv(fisher)[None])
    change = (new - weight)[0]
    assert new[0, [1, 3]].tolist() == [0, 0]
    assert loss == pytest.approx(float(change @ fisher @ change / 2))
    assert float((fisher @ change)[[0, 2, 4]].abs().max()) < 1e-12


def test_all_layers_compete_and_the_count_is_exact() -> None:
    """Filled-up weights do not count, and the loss is that of the change."""
    weights = {"strong": 10 * drawn(23, seed=3), "weak": drawn(17, seed=4)}
    inverses = {name: inverses_of(drawn(60, len(each), seed=5), 6, 1e-3) for name, each in weights.items()}
    new, loss = prune_blocks(weights, inverses, 25)
    zeros = {name: int((each == 0).sum()) for name, each in new.items()}
    assert sum(zeros.values()) == 25
    assert zeros["weak"] / 17 > zeros["strong"] / 23
    predicted = 0.0
    for name, each in new.items():
        change = weight_blocks(each - weights[name], 6)
        fisher = torch.linalg.inv(inverses[name])
        predicted += float((change[:, None] @ fisher @ change[:, :, None]).sum() / 2)
    assert loss == pytest.approx(predicted)


def test_a_better_choice_than_the_diagonal_alone() -> None:
    """With correlated gradients, against OBD with the same matrix."""
    mix = drawn(12, 12, seed=6)
    gradients, weight = drawn(200, 12, seed=7) @ mix, drawn(12, seed=8)
    fisher = gradients.T @ gradients / 200 + 1e-4 * torch.eye(12).double()
    _, loss = prune_blocks({"layer": weight}, {"layer": torch.linalg.inv(fisher)[None]}, 6)
    order = (fisher.diagonal() * weight.square()).argsort()
    plain = weight.clone()
    plain[order[:6]] = 0
    assert loss < 0.7 * float((plain - weight) @ fisher @ (plain - weight) / 2)


def test_zeros_stay_zeros() -> None:
    """Fewer, as many or more than are zero already."""
    weight = drawn(20, seed=9)
    weight[[0, 7, 19]] = 0
    inverses = {"layer": inverses_of(drawn(50, 20, seed=10), 6, 1e-3)}
    for leaving, zeros in ((10, 10), (1, 3), (0, 3), (20, 20)):
        new, _ = prune_blocks({"layer": weight}, inverses, leaving)
        assert not bool(new["layer"][[0, 7, 19]].any())
        assert int((new["layer"] == 0).sum()) == zeros


def test_what_cannot_be_done_is_refused() -> None:
    """No curvature, gradients that are not finite, too few weights."""
    with pytest.raises(StageError, match="All gradients are zero"):
        initial_inverses(2, 3, 0.0)
    with pytest.raises(StageError, match="not finite"):
        add_gradients(initial_inverses(1, 2, 1.0).contiguous(), torch.full((1, 1, 2), torch.nan).double(), 1)
    with pytest.raises(InputError, match="cannot leave"):
        prune_blocks({"layer": drawn(6)}, {"layer": initial_inverses(1, 6, 1.0)}, 7)
