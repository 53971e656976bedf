"""Projected gradient descent on what is fused (Madry et al. 2018, arXiv:1706.06083).

Shape suffixes: B batch, S slots, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Attack:
    """epsilon: half the side of the cube searched; rate: length of a step; both in standard deviations."""

    epsilon: float
    steps: int
    rate: float


def deviations(e_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Standard deviation (S, 1) of each slot's embeddings over its present rows and their numbers that are not 0; 0
    without any."""
    here_BSD = (mask_BS[..., None] & (e_BSD != 0)).to(e_BSD.dtype)
    count_S1 = here_BSD.sum((0, 2))[:, None].clamp_min(1)
    mean_S1 = (e_BSD * here_BSD).sum((0, 2))[:, None] / count_S1
    square_S1 = ((e_BSD - mean_S1).square() * here_BSD).sum((0, 2))[:, None] / count_S1
    return square_S1.sqrt()


def worst(
    loss: Callable[[Tensor], Tensor],
    e_BSD: Tensor,
    mask_BS: Tensor,
    attack: Attack,
    rng: torch.Generator | None = None,
) -> Tensor:
    """A disturbance (B, S, D) of `e_BSD` that raises `loss` of the sum: signed gradient steps from a random start,
    held within epsilon in every number. Zeros stay: a slot that is absent, a token that holds nothing.

    Rows may be searched together where `loss` sums over them. No gradient reaches the embeddings or the weights.
    """
    still_BSD = e_BSD.detach().float()
    unit_BSD = deviations(still_BSD, mask_BS) * (mask_BS[..., None] & (still_BSD != 0))
    start_BSD = torch.rand(still_BSD.shape, generator=rng, device=still_BSD.device) * 2 - 1
    move_BSD = start_BSD * attack.epsilon * unit_BSD
    for _ in range(attack.steps):
        with torch.enable_grad():
            move_BSD.requires_grad_(True)
            (slope_BSD,) = torch.autograd.grad(loss(still_BSD + move_BSD), move_BSD)
        ahead_BSD = move_BSD.detach() + attack.rate * unit_BSD * slope_BSD.sign()
        move_BSD = torch.clamp(ahead_BSD, -attack.epsilon * unit_BSD, attack.epsilon * unit_BSD)
    return move_BSD.detach()
