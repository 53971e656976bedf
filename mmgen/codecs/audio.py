"""The audio codec: normalised log-mel spectrograms to a grid of latents and back."""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.codecs.grid import GridCodec, Terms


class AudioCodec(GridCodec):
    """Log-mel spectrograms (B, M, T), normalised to about [-1, 1], to latents (B, T, D) and back.

    Args:
        mels, frames: size of the spectrogram, multiples of patch · 2^(len(widths) - 1).
        patch, widths, depth, latent_width, kl_weight: see GridCodec.
    """

    def __init__(
        self,
        *,
        mels: int,
        frames: int,
        patch: int,
        widths: tuple[int, ...],
        depth: int,
        latent_width: int,
        kl_weight: float,
    ) -> None:
        super().__init__(
            channels=1, height=mels, width=frames, patch=patch, widths=widths, depth=depth,
            latent_width=latent_width, kl_weight=kl_weight,
        )  # fmt: skip

    def encode(self, value: Tensor) -> Tensor:
        """Spectrograms (B, M, T) to latents (B, T', D), deterministic."""
        return self.encode_grid(value.unsqueeze(1))

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T', D) to spectrograms (B, M, T), not clipped."""
        return self.decode_grid(z_BTD).squeeze(1)

    def loss(self, value: Tensor, rng: torch.Generator | None = None, terms: Terms | None = None) -> dict[str, Tensor]:
        """`loss` (per value and latent number) with its parts `reconstruction` and `kl`, and those of `terms`."""
        return self.grid_loss(value.unsqueeze(1), rng, terms)
