"""Which weights of a layer to round up: gradient descent on relaxed decisions, then one decision after the other.

The layer's squared error on inputs X is the sum over output channels of d' (X X') d, d the change of the channel's
weights, so the Gram matrix X X' is all that is needed of the inputs. `G` are groups, `O` output channels of one, `K`
weights of one channel.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (ICML 2020) for the relaxation.
Differs: coordinate descent follows, which halves what the relaxation leaves: each decision is turned over where that
alone lowers the error, until none is. To the Gram matrix a share of its diagonal is added: with few inputs for many
weights the decisions would fit them alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEARNING_RATE = 0.05
#: Stretch of the sigmoid beyond 0 and 1, as in the paper (zeta, gamma).
STRETCH, SHIFT = 1.2, -0.1
_PENALTY = 3.0
#: The penalty's exponent falls from the first to the second number after a tenth of the steps.
_EXPONENTS = (20.0, 2.0)
_FREE_SHARE = 0.1
#: Multiply-accumulates that the relaxation may cost, and the fewest steps that are of any use.
WORK, FEWEST = 3e10, 50
_DAMPING = 0.3
SWEEPS, BLOCK = 10, 64
HALF = 0.5
#: A turn must gain more than this share of what it moves: less is rounding.
GAIN = 1e-6


@dataclass(frozen=True)
class Choices:
    """The two numbers that each weight may become: `lower` and `lower + room`, room 0 or 1, of size `scale` each.

    `exact` is the weight in the same units. All are [G, O, K]; the Gram matrix of the inputs is [G, K, K].
    """

    lower: Tensor
    room: Tensor
    exact: Tensor
    scale: Tensor
    gram: Tensor

    def error(self, integers_GOK: Tensor) -> float:
        """Return the squared error of the layer's outputs, summed over everything."""
        return float(_error((integers_GOK - self.exact) * self.scale, self.gram))


def decide(choices: Choices, steps: int) -> Tensor:
    """Return the chosen integers [G, O, K]. `steps` of the relaxation at most, fewer or none for a large layer."""
    mean = choices.gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    gram = choices.gram + _DAMPING * mean * torch.eye(choices.gram.shape[1])
    rest = choices.exact - choices.lower
    affordable = min(steps, int(WORK / (rest.numel() * rest.shape[2])))
    up = _relaxed(choices, rest, gram, affordable) if affordable >= min(FEWEST, steps) else (rest > HALF).float()
    return choices.lower + _turned(up, choices, rest, gram) * choices.room


def _relaxed(choices: Choices, rest_GOK: Tensor, gram_GKK: Tensor, steps: int) -> Tensor:
    """Return 1 where a weight is to be rounded up and 0 where down."""
    share = torch.clamp((rest_GOK - SHIFT) / STRETCH, 1e-3, 1 - 1e-3)
    # The error is taken relative to that of plain rounding, so that the penalty weighs the same in every layer.
    plain = _error(((rest_GOK > HALF) * choices.room - rest_GOK) * choices.scale, gram_GKK) + 1e-20
    with torch.enable_grad():
        free = torch.log(share / (1 - share)).requires_grad_()
        optimiser = torch.optim.Adam([free], lr=_LEARNING_RATE)
        for step in range(steps):
            up = torch.clamp(torch.sigmoid(free) * STRETCH + SHIFT, 0, 1)
            loss = _error((up * choices.room - rest_GOK) * choices.scale, gram_GKK) / plain
            done = (step / steps - _FREE_SHARE) / (1 - _FREE_SHARE)
            if done > 0:
                exponent = _EXPONENTS[1] + (_EXPONENTS[0] - _EXPONENTS[1]) * (1 - done)
                loss = loss + _PENALTY * (1 - (2 * up - 1).abs().pow(exponent)).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return (torch.sigmoid(free) > HALF).float().detach()


def _turned(up_GOK: Tensor, choices: Choices, rest_GOK: Tensor, gram_GKK: Tensor) -> Tensor:
    """Turn single decisions over while that lowers the error; columns in blocks, so that most work is a product."""
    up, size = up_GOK.clone(), choices.scale * choices.room
    pull = ((up * choices.room - rest_GOK) * choices.scale) @ gram_GKK
    for _ in range(SWEEPS):
        start = up.clone()
        for first in range(0, up.shape[2], BLOCK):
            part = slice(first, first + BLOCK)
            before = up[..., part].clone()
            _turn_block(up[..., part], size[..., part], pull[..., part].clone(), gram_GKK[:, part, part])
            pull += ((up[..., part] - before) * size[..., part]) @ gram_GKK[:, part]
        if torch.equal(up, start):
            break
    return up


def _turn_block(up_GOK: Tensor, size_GOK: Tensor, pull_GOK: Tensor, gram_GKK: Tensor) -> None:
    """Turn decisions over, in place; `pull` is the gradient of half the error with respect to the weights."""
    for place in range(up_GOK.shape[2]):
        move = (1 - 2 * up_GOK[..., place]) * size_GOK[..., place]
        cost = move.square() * gram_GKK[:, place, place, None]
        turn = 2 * move * pull_GOK[..., place] + cost < -GAIN * cost
        up_GOK[..., place] = torch.where(turn, 1 - up_GOK[..., place], up_GOK[..., place])
        pull_GOK += (move * turn)[..., None] * gram_GKK[:, None, place]


def _error(change_GOK: Tensor, gram_GKK: Tensor) -> Tensor:
    """Return the squared error of the outputs that a change of the weights makes, summed over everything."""
    return ((change_GOK @ gram_GKK) * change_GOK).sum()
