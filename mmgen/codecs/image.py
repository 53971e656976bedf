"""The image codec: normalised images to a grid of latents and back."""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.codecs.grid import GridCodec, Terms


class ImageCodec(GridCodec):
    """Images (B, C, H, W), normalised to about [-1, 1], to latents (B, T, D) and back. See GridCodec."""

    def encode(self, value: Tensor) -> Tensor:
        """Images (B, C, H, W) to latents (B, T, D), deterministic."""
        return self.encode_grid(value)

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to images (B, C, H, W), not clipped."""
        return self.decode_grid(z_BTD)

    def loss(self, value: Tensor, rng: torch.Generator | None = None, terms: Terms | None = None) -> dict[str, Tensor]:
        """`loss` (per value and latent number) with its parts `reconstruction` and `kl`, and those of `terms`."""
        return self.grid_loss(value, rng, terms)
