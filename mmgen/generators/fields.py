"""Networks of the joint flow: from the slots' latents, times and roles to the velocity of each.

Shape suffixes: B batch, S slots, T latent tokens, N tokens of all slots, D latent width, E width of a fusion embedding,
W network width, F frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.generators.roles import ABSENT, GIVEN, ROLES
from mmgen.generators.samplers import State

TIME_FREQUENCIES = 32
HEAD_WIDTH = 32
Shapes = Mapping[str, tuple[int, int]]


class TimeWaves(nn.Module):
    """Times (B, S) to sines and cosines (B, S, 2·F), float32."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0.0, math.log(64.0), TIME_FREQUENCIES)))

    def forward(self, t_BS: Tensor) -> Tensor:
        # sines of large angles need float32 whatever the precision around
        angles_BSF = 2 * math.pi * t_BS.float()[..., None] * self.frequencies
        return torch.cat([angles_BSF.sin(), angles_BSF.cos()], dim=-1)


class ModulatedBlock(nn.Module):
    """Residual block whose norm is scaled, shifted and gated by the condition (Peebles & Xie 2023, arXiv:2212.09748).

    The modulation is one projection for all blocks plus a table of each block's own (Chen et al. 2023,
    arXiv:2310.00426), which is what keeps a step cheap. It starts as the identity.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.table = nn.Parameter(torch.zeros(3, width))
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BW: Tensor, modulation_B3W: Tensor) -> Tensor:
        scale_BW, shift_BW, gate_BW = (modulation_B3W + self.table).unbind(1)
        inner_BW = self.norm(h_BW) * (1 + scale_BW) + shift_BW
        out: Tensor = h_BW + gate_BW * self.down(self.dropout(F.silu(self.up(inner_BW))))
        return out


class ResidualField(nn.Module):
    """All latents side by side through residual blocks: a step costs no more than a few matrices.

    shapes: slot → (T, D). hidden: width of the blocks' hidden layer. embedding_width: E, None for no embeddings.
    """

    def __init__(
        self, shapes: Shapes, *, width: int, blocks: int, hidden: int, embedding_width: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        sizes = {slot: tokens * wide for slot, (tokens, wide) in shapes.items()}
        # ModuleDict refuses names with dots and of its own methods, so slots go by number
        self.read = nn.ModuleList(nn.Linear(size, width) for size in sizes.values())
        self.write = nn.ModuleList(nn.Linear(width, size) for size in sizes.values())
        self.embed = nn.ModuleList(nn.Linear(embedding_width, width) for _ in sizes) if embedding_width else None
        self.waves = TimeWaves()
        self.times = nn.Linear(len(sizes) * 2 * TIME_FREQUENCIES, width)
        self.roles = nn.Parameter(torch.randn(len(sizes), ROLES, width) * 0.02)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.blocks = nn.ModuleList(ModulatedBlock(width, hidden, dropout) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)
        for layer in (self.modulate[-1], *self.write):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x_t: Mapping[str, Tensor], t_BS: Tensor, roles_BS: Tensor, embeddings: Mapping[str, Tensor]
    ) -> State:
        """See JointFlow.velocity."""
        slots = torch.arange(len(self.shapes), device=roles_BS.device)
        condition_BW = self.times(self.waves(t_BS).flatten(1)) + self.roles[slots, roles_BS].sum(1)
        h_BW = torch.zeros_like(condition_BW)
        for number, slot in enumerate(self.shapes):
            if slot in x_t:
                seen_B1 = (roles_BS[:, number] != ABSENT)[:, None]
                h_BW = h_BW + torch.where(seen_B1, self.read[number](x_t[slot].flatten(1)), 0.0)
            if self.embed is not None and slot in embeddings:
                given_B1 = (roles_BS[:, number] == GIVEN)[:, None]
                h_BW = h_BW + torch.where(given_B1, self.embed[number](embeddings[slot]), 0.0)
        modulation_B3W = self.modulate(condition_BW).unflatten(1, (3, -1))
        for block in self.blocks:
            h_BW = block(h_BW, modulation_B3W)
        h_BW = self.norm_out(h_BW)
        return {
            slot: write(h_BW).float().unflatten(1, shape)
            for (slot, shape), write in zip(self.shapes.items(), self.write, strict=True)
        }


class ModulatedAttentionBlock(nn.Module):
    """Self-attention and a hidden layer, each scaled, shifted and gated by the token's own condition (adaLN)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.table = nn.Parameter(torch.zeros(6, width))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BNW: Tensor, modulation_BN6W: Tensor, keep_B11N: Tensor) -> Tensor:
        """keep_B11N: True where a token may be attended to."""
        first = (modulation_BN6W + self.table).unbind(2)
        inner_BNW = self.norm(h_BNW) * (1 + first[0]) + first[1]
        parts = self.query_key_value(inner_BNW).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keep_B11N)
        h_BNW = h_BNW + first[2] * self.project(mixed.transpose(1, 2).flatten(2))
        inner_BNW = self.norm(h_BNW) * (1 + first[3]) + first[4]
        out: Tensor = h_BNW + first[5] * self.down(self.dropout(F.silu(self.up(inner_BNW))))
        return out


class TokenField(nn.Module):
    """Every latent token by itself, attending to the tokens of all slots that are there, and to their embeddings.

    A slot's time and role modulate its own tokens. Arguments as for ResidualField.
    """

    owners: Tensor

    def __init__(
        self, shapes: Shapes, *, width: int, blocks: int, hidden: int, embedding_width: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.read = nn.ModuleList(nn.Linear(wide, width) for _, wide in shapes.values())
        self.write = nn.ModuleList(nn.Linear(width, wide) for _, wide in shapes.values())
        self.embed = nn.ModuleList(nn.Linear(embedding_width, width) for _ in shapes) if embedding_width else None
        self.positions = nn.ParameterList(torch.randn(tokens, width) * 0.02 for tokens, _ in shapes.values())
        self.waves = TimeWaves()
        self.times = nn.Linear(2 * TIME_FREQUENCIES, width)
        self.roles = nn.Parameter(torch.randn(len(shapes), ROLES, width) * 0.02)
        self.modulate = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(ModulatedAttentionBlock(width, hidden, dropout) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)
        # the tokens' slots, embeddings last
        counts = [tokens for tokens, _ in shapes.values()] + [1] * (len(shapes) if embedding_width else 0)
        owners = [number % len(shapes) for number in range(len(counts))]
        self.register_buffer("owners", torch.tensor(owners).repeat_interleave(torch.tensor(counts)), persistent=False)
        for layer in (self.modulate[-1], *self.write):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x_t: Mapping[str, Tensor], t_BS: Tensor, roles_BS: Tensor, embeddings: Mapping[str, Tensor]
    ) -> State:
        """See JointFlow.velocity."""
        count, slots = roles_BS.shape
        owners = self.owners
        condition_BSW = self.times(self.waves(t_BS)) + self.roles[torch.arange(slots, device=owners.device), roles_BS]
        modulation_BN6W = self.modulate(condition_BSW)[:, owners].unflatten(2, (6, -1))
        tokens, seen = [], []
        for number, (slot, (length, _)) in enumerate(self.shapes.items()):
            here_B1 = (roles_BS[:, number] != ABSENT)[:, None]
            read = self.read[number](x_t[slot]) if slot in x_t else condition_BSW.new_zeros(count, length, 1)
            # what stands in an absent slot is masked, but must not bring NaN into the sums
            tokens.append(torch.where(here_B1[..., None], read, 0.0) + self.positions[number])
            seen.append(here_B1.expand(-1, length))
        for number, (slot, embed) in enumerate(zip(self.shapes, self.embed or (), strict=False)):
            given_B1 = (roles_BS[:, number] == GIVEN)[:, None]
            e_BE = embeddings.get(slot)
            has_B1 = given_B1 & e_BE.any(1, keepdim=True) if e_BE is not None else torch.zeros_like(given_B1)
            h_B1W = embed(e_BE)[:, None] if e_BE is not None else condition_BSW.new_zeros(count, 1, self.width)
            tokens.append(torch.where(has_B1[..., None], h_B1W, 0.0))
            seen.append(has_B1)
        h_BNW, keep_B11N = torch.cat(tokens, dim=1), torch.cat(seen, dim=1)[:, None, None]
        # a row in which nothing is there must still have something to attend to
        keep_B11N = keep_B11N | ~keep_B11N.any(-1, keepdim=True)
        for block in self.blocks:
            h_BNW = block(h_BNW, modulation_BN6W, keep_B11N)
        lengths = [length for length, _ in self.shapes.values()]
        parts = self.norm_out(h_BNW[:, : sum(lengths)]).split(lengths, dim=1)
        return {slot: write(part).float() for slot, write, part in zip(self.shapes, self.write, parts, strict=True)}

    @property
    def width(self) -> int:
        """W."""
        return self.roles.shape[-1]


FIELDS: dict[str, type[ResidualField] | type[TokenField]] = {"residual": ResidualField, "transformer": TokenField}
