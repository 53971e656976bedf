"""Ways to make one embedding of any subset of slots.

Shape suffixes: B batch, S slots, D width. An absent slot's embedding is never looked at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConcatFuse(nn.Module):
    """Embeddings side by side, zeros where a slot is absent, with the mask beside them; one hidden layer."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(slots * width + slots, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, e_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """(B, S, D) and presence (B, S) bool to (B, D)."""
        present_BSD = e_BSD.masked_fill(~mask_BS[..., None], 0.0)
        fused_BD: Tensor = self.layers(torch.cat([present_BSD.flatten(1), mask_BS.to(e_BSD.dtype)], dim=1))
        return fused_BD


class GatedFuse(nn.Module):
    """A sum of each slot's own projection, weighted by gates that see the slot, then a residual hidden layer.

    The gates are a softmax over what is present (Arevalo et al. 2017, arXiv:1702.01992, for any number of slots).
    """

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.eye(width).repeat(slots, 1, 1))
        self.gates = nn.Parameter(torch.zeros(slots, width))
        hidden = 2 * width
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, e_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """(B, S, D) and presence (B, S) bool to (B, D); a row without any slot gets a constant."""
        present_BSD = e_BSD.masked_fill(~mask_BS[..., None], 0.0)
        score_BS = (present_BSD * self.gates).sum(-1) / math.sqrt(e_BSD.shape[-1])
        weight_BS = score_BS.float().masked_fill(~mask_BS, -1e4).softmax(1) * mask_BS
        value_BSD = torch.einsum("bsd,sdw->bsw", present_BSD, self.values)
        mixed_BD = (weight_BS[..., None] * value_BSD).sum(1)
        fused_BD: Tensor = mixed_BD + self.hidden(mixed_BD)
        return fused_BD


def unit_scale(e_BD: Tensor) -> Tensor:
    """Embeddings of root mean square 1 over the last axis, float32: a cosine is then a dot product divided by D."""
    out: Tensor = F.normalize(e_BD.float(), dim=-1) * math.sqrt(e_BD.shape[-1])
    return out
