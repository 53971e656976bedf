"""Ways to make one embedding of any subset of slots.

Shape suffixes: B batch, S slots, D width, R rank, N bottleneck tokens, T tokens of a slot. An absent slot's embedding
is never looked at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.codecs.text import TransformerBlock

HEAD_WIDTH = 32


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


class LowRankFuse(nn.Module):
    """A sum over `rank` of the products, over slots, of each slot's own factor of that rank; a residual hidden layer.

    Low-rank Multimodal Fusion (Liu et al. 2018, arXiv:1806.00064, eq. 7): the tensor of all products of the slots'
    vectors, each with a 1 appended, is met in rank-1 parts and never made. A factor here is 1 + W e, so that an
    absent slot's is the product's identity.
    """

    def __init__(self, slots: int, width: int, rank: int = 4) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.randn(slots, rank, width, width) / math.sqrt(width))
        self.offsets = nn.Parameter(torch.zeros(slots, rank, width))
        self.weights = nn.Parameter(torch.randn(rank) / math.sqrt(rank))
        self.bias = nn.Parameter(torch.zeros(width))
        self.hidden = _hidden(width)

    def forward(self, e_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """(B, S, D) and presence (B, S) bool to (B, D); a row without any slot gets a constant."""
        present_BSD = e_BSD.masked_fill(~mask_BS[..., None], 0.0)
        factor_BSRD = torch.einsum("bsd,srdw->bsrw", present_BSD, self.factors) + self.offsets
        whole_BSRD = 1 + factor_BSRD.masked_fill(~mask_BS[..., None, None], 0.0)
        mixed_BD = torch.einsum("brw,r->bw", whole_BSRD.prod(1), self.weights) + self.bias
        fused_BD: Tensor = mixed_BD + self.hidden(mixed_BD)
        return fused_BD


class CrossAttentionFuse(nn.Module):
    """Slots that meet in a few learned bottleneck tokens only, in `depth` blocks; the mean of what they leave there.

    Attention bottlenecks (Nagrani et al. 2021, arXiv:2107.00135, eq. 8 and 9): in each block every slot attends with
    the bottleneck by itself, and the bottleneck becomes the mean of what the present slots made of it. A slot is one
    token, its pooled vector, or T of them side by side, those of zeros holding nothing; the blocks' weights are shared
    by the slots, which learned vectors tell apart.
    """

    def __init__(self, slots: int, width: int, bottlenecks: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.width = width
        self.kinds = nn.Parameter(torch.randn(slots, width) * 0.02)
        self.bottlenecks = nn.Parameter(torch.randn(bottlenecks, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, max(1, width // HEAD_WIDTH)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, e_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """(B, S, T · D) and presence (B, S) bool to (B, D); a row without any slot gets a constant."""
        count, slots = mask_BS.shape
        x_BSTD = e_BSD.masked_fill(~mask_BS[..., None], 0.0).reshape(count, slots, -1, self.width)
        tokens = x_BSTD.shape[2]
        holds_BST = x_BSTD.any(-1) if tokens > 1 else torch.ones_like(mask_BS)[..., None]
        # one token a slot is always there, and attention without a mask is the faster one
        keep = F.pad(holds_BST, (0, len(self.bottlenecks)), value=True).flatten(0, 1) if tokens > 1 else None
        x_BSTD = x_BSTD + self.kinds[:, None]
        share_BS11 = (mask_BS / mask_BS.sum(1, keepdim=True).clamp_min(1)).to(e_BSD.dtype)[..., None, None]
        between_BND = self.bottlenecks.expand(count, -1, -1)
        for block in self.blocks:
            each_BSND = between_BND[:, None].expand(-1, slots, -1, -1)
            met = block(torch.cat([x_BSTD, each_BSND], dim=2).flatten(0, 1), keep).unflatten(0, (count, slots))
            x_BSTD, between_BND = met[:, :, :tokens], (met[:, :, tokens:] * share_BS11).sum(1)
        weight_BST1 = (holds_BST / holds_BST.sum(2, keepdim=True).clamp_min(1)).to(e_BSD.dtype)[..., None]
        mixed_BD = between_BND.mean(1) + ((x_BSTD * weight_BST1).sum(2) * share_BS11[..., 0]).sum(1)
        fused_BD: Tensor = self.out(self.norm(mixed_BD))
        return fused_BD


def _hidden(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def unit_scale(e_BD: Tensor) -> Tensor:
    """Embeddings of root mean square 1 over the last axis, float32: a cosine is then a dot product divided by D."""
    out: Tensor = F.normalize(e_BD.float(), dim=-1) * math.sqrt(e_BD.shape[-1])
    return out
