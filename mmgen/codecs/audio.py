"""The audio codec: normalised log-mel spectrograms to a grid of latents and back."""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.codecs.grid import GridCodec, Terms
from mmgen.preprocess.audio import ABSENT, ends, marked


class AudioCodec(GridCodec):
    """Log-mel spectrograms (B, M, T), normalised to about [-1, 1], to latents (B, T, D) and back.

    Args:
        mels, frames: size of the spectrogram, multiples of patch · 2^(len(widths) - 1).
        patch, widths, depth, latent_width, kl_weight: see GridCodec.
        variable: frames after the end of a sound hold ABSENT (mmgen.preprocess.audio). Whether a frame is there is a
            channel of the grid beside its levels, 1 or -1: told apart from how loud it is, its latents carry the end.
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
        variable: bool = False,
    ) -> None:
        super().__init__(
            channels=1 + variable, height=mels, width=frames, patch=patch, widths=widths, depth=depth,
            # a mean over two channels has half of the levels' error
            latent_width=latent_width, kl_weight=kl_weight / (1 + variable),
        )  # fmt: skip
        self.variable = variable

    def encode(self, value: Tensor) -> Tensor:
        """Spectrograms (B, M, T) to latents (B, T', D), deterministic."""
        return self.encode_grid(self._grid(value))

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T', D) to spectrograms (B, M, T), not clipped; variable ones are -1 at least before their end."""
        grid_BCMT = self.decode_grid(z_BTD)
        if not self.variable:
            return grid_BCMT.squeeze(1)
        level_BMT, there_BMT = grid_BCMT.unbind(1)
        return marked(level_BMT, ends(there_BMT.mean(dim=1)))

    def loss(self, value: Tensor, rng: torch.Generator | None = None, terms: Terms | None = None) -> dict[str, Tensor]:
        """`loss` (per value and latent number) with its parts `reconstruction` and `kl`, and those of `terms`."""
        return self.grid_loss(self._grid(value), rng, terms)

    def _grid(self, value: Tensor) -> Tensor:
        """(B, C, M, T): levels, and if lengths vary whether a frame is there."""
        if not self.variable:
            return value.unsqueeze(1)
        there = (value > (ABSENT - 1) / 2).to(value.dtype) * 2 - 1
        return torch.stack([value.clamp(min=-1.0), there], dim=1)
