"""The text codec: token ids to a few latent tokens and back, all positions at once.

Shape suffixes: B batch, L text length, T latent tokens, D latent width, W width of the network, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.codecs.grid import gaussian_kl

PAD, BOS, EOS = 0, 1, 2


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

    def forward(self, x_BLW: Tensor, keep_BL: Tensor | None = None) -> Tensor:
        """keep_BL: True where a position may be attended to; None means everywhere."""
        parts = self.query_key_value(self.norm_attention(x_BLW)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        keep = None if keep_BL is None else keep_BL[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        x_BLW = x_BLW + self.project(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x_BLW + self.hidden(self.norm_hidden(x_BLW))
        return out


class TextCodec(nn.Module):
    """Variational autoencoder of whole texts with a parallel decoder, so that decoding is one pass.

    Latent queries attend with the tokens in a bidirectional encoder; the decoder attends from learned positions
    to the latents. What follows the first end token is padding.

    Args:
        vocabulary: V, with pad = 0, bos = 1, eos = 2.
        length: L, the longest text in tokens, with bos and eos.
        latent_tokens, latent_width: T and D.
        width, heads, depth: of both transformers.
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
        self.out_positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.decoder = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.02)

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

    def logits(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to logits (B, L, V), float32."""
        count = len(z_BTD)
        latent_BTW = self.from_latent(z_BTD.flatten(1)).unflatten(1, (self.latent_tokens, -1))
        x_BLW = torch.cat([latent_BTW, self.out_positions.expand(count, -1, -1)], dim=1)
        for block in self.decoder:
            x_BLW = block(x_BLW)
        out: Tensor = self.to_logits(self.norm_out(x_BLW[:, self.latent_tokens :]))
        return out.float()

    def encode(self, value: Tensor) -> Tensor:
        """Ids (B, L) int64 to latents (B, T, D), deterministic."""
        return self.posterior(value, value != PAD)[0]

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to ids (B, L) int64, padded after the first end token."""
        ids_BL = self.logits(z_BTD).argmax(-1)
        after_end_BL = ((ids_BL == EOS).cumsum(1) - (ids_BL == EOS).long()) > 0
        return ids_BL.masked_fill(after_end_BL, PAD)

    def loss(self, value: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss` with its parts `reconstruction` (nats per token, padding not counted twice) and `kl`."""
        keep_BL = value != PAD
        seen_BL = keep_BL
        if self.token_dropout:
            seen_BL = keep_BL & (torch.rand(value.shape, generator=rng, device=value.device) >= self.token_dropout)
        mean, log_variance = self.posterior(value, seen_BL)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        logits_BLV = self.logits(mean + noise * (0.5 * log_variance).exp())
        reconstruction = F.cross_entropy(logits_BLV[keep_BL], value[keep_BL])
        kl = gaussian_kl(mean, log_variance)
        total = reconstruction + self.kl_weight * kl
        return {"loss": total, "reconstruction": reconstruction.detach(), "kl": kl.detach()}
