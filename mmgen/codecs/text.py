"""Text codecs: token ids to a few latent tokens and back; here with a decoder of all positions at once.

Shape suffixes: B batch, L text length, T latent tokens, D latent width, W width of the network, V vocabulary,
H heads, K positions that may be attended to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.codecs.grid import gaussian_kl

PAD, BOS, EOS = 0, 1, 2


class Past:
    """Keys and values (B, H, K, W / H) of all that a block has read so far; they grow with every reading."""

    def __init__(self) -> None:
        self.key_value: tuple[Tensor, Tensor] | None = None

    def join(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What was read before, and these behind it."""
        if self.key_value is not None:
            key, value = (torch.cat(pair, dim=2) for pair in zip(self.key_value, (key, value), strict=True))
        self.key_value = key, value
        return key, value

    def take(self, rows_N: Tensor) -> None:
        """Go on with these rows, which may repeat."""
        if self.key_value is not None:
            key, value = self.key_value
            self.key_value = key[rows_N], value[rows_N]


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a GELU layer (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_hidden = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BLW: Tensor, keep: Tensor | None = None, past: Past | None = None) -> Tensor:
        """keep: True where a position may be attended to, for all alike (B, K) or for each (B, L, K); None: everywhere.

        past: what was read before, which is attended to as well and stands first in K; x_BLW is added to it.
        """
        parts = self.query_key_value(self.norm_attention(x_BLW)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if past is not None:
            k, v = past.join(k, v)
        if keep is not None:
            keep = keep[:, None, None, :] if keep.dim() == 2 else keep[:, None]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        x_BLW = x_BLW + self.project(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x_BLW + self.hidden(self.norm_hidden(x_BLW))
        return out


class TextAutoencoder(nn.Module, ABC):
    """Variational autoencoder of whole texts (Bowman et al. 2016, arXiv:1511.06349): all but its decoder.

    Latent queries attend with the tokens in a bidirectional encoder.

    Args:
        vocabulary: V, with pad = 0, bos = 1, eos = 2.
        length: L, the longest text in tokens, with bos and eos.
        latent_tokens, latent_width: T and D.
        width, heads, depth: of the encoder, and of the decoder.
        kl_weight: weight of the divergence (nats per latent number) beside the cross-entropy per token.
        token_dropout: share of the encoder's input tokens hidden in training.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        latent_tokens: int,
        latent_width: int,
        width: int,
        heads: int,
        depth: int,
        kl_weight: float,
        token_dropout: float,
    ) -> None:
        super().__init__()
        self.length, self.latent_tokens, self.latent_width = length, latent_tokens, latent_width
        self.kl_weight, self.token_dropout = kl_weight, token_dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(latent_tokens, width) * 0.02)
        self.encoder = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.to_latent = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * latent_width))
        self.from_latent = nn.Linear(latent_tokens * latent_width, latent_tokens * width)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(T, D)."""
        return self.latent_tokens, self.latent_width

    def posterior(self, ids_BL: Tensor, keep_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (B, T, D). keep_BL: which tokens the encoder sees."""
        count = len(ids_BL)
        x_BLW = torch.cat([self.queries.expand(count, -1, -1), self.embedding(ids_BL) + self.positions], dim=1)
        keep = torch.cat([keep_BL.new_ones(count, self.latent_tokens), keep_BL], dim=1)
        for block in self.encoder:
            x_BLW = block(x_BLW, keep)
        mean, log_variance = self.to_latent(x_BLW[:, : self.latent_tokens]).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12.0, 4.0)

    def latent_states(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) as the decoder reads them, (B, T, W)."""
        # torch gives `unflatten` no types
        return self.from_latent(z_BTD.flatten(1)).unflatten(1, (self.latent_tokens, -1))  # type: ignore[no-any-return]

    def encode(self, value: Tensor) -> Tensor:
        """Ids (B, L) int64 to latents (B, T, D), deterministic."""
        return self.posterior(value, value != PAD)[0]

    @abstractmethod
    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to ids (B, L) int64, padded after the first end token; deterministic."""

    @abstractmethod
    def reconstruction(self, z_BTD: Tensor, value: Tensor, rng: torch.Generator | None) -> Tensor:
        """Cross-entropy of ids (B, L) given latents, a scalar: nats per token, padding not counted."""

    def loss(self, value: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss` with its parts `reconstruction` (nats per token, padding not counted) and `kl`."""
        seen_BL = value != PAD
        if self.token_dropout:
            seen_BL = seen_BL & (torch.rand(value.shape, generator=rng, device=value.device) >= self.token_dropout)
        mean, log_variance = self.posterior(value, seen_BL)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        reconstruction = self.reconstruction(mean + noise * (0.5 * log_variance).exp(), value, rng)
        kl = gaussian_kl(mean, log_variance)
        total = reconstruction + self.kl_weight * kl
        return {"loss": total, "reconstruction": reconstruction.detach(), "kl": kl.detach()}


class TextCodec(TextAutoencoder):
    """With a parallel decoder, so that decoding is one pass: learned positions attend to the latents and to each other.

    What follows the first end token is padding. For the arguments see TextAutoencoder.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        latent_tokens: int,
        latent_width: int,
        width: int,
        heads: int,
        depth: int,
        kl_weight: float,
        token_dropout: float,
    ) -> None:
        super().__init__(
            vocabulary=vocabulary, length=length, latent_tokens=latent_tokens, latent_width=latent_width, width=width,
            heads=heads, depth=depth, kl_weight=kl_weight, token_dropout=token_dropout,
        )  # fmt: skip
        self.out_positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.decoder = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def logits(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to logits (B, L, V), float32."""
        count = len(z_BTD)
        x_BLW = torch.cat([self.latent_states(z_BTD), self.out_positions.expand(count, -1, -1)], dim=1)
        for block in self.decoder:
            x_BLW = block(x_BLW)
        out: Tensor = self.to_logits(self.norm_out(x_BLW[:, self.latent_tokens :]))
        return out.float()

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to ids (B, L) int64, padded after the first end token."""
        ids_BL = self.logits(z_BTD).argmax(-1)
        after_end_BL = ((ids_BL == EOS).cumsum(1) - (ids_BL == EOS).long()) > 0
        return ids_BL.masked_fill(after_end_BL, PAD)

    def reconstruction(self, z_BTD: Tensor, value: Tensor, rng: torch.Generator | None) -> Tensor:
        """Nats per token over all positions of a text; nothing is drawn."""
        keep_BL = value != PAD
        return F.cross_entropy(self.logits(z_BTD)[keep_BL], value[keep_BL])
