"""Convolutional networks of the peers, in their own library's terms. Runs in the peers' environment, without mmgen.

The same trunks for every peer, about as large as our codecs. Shape suffixes: B batch, W trunk width, L text length,
V vocabulary, M mels, T frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from multivae.models.nn import BaseMultilatentEncoder
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn.base_architectures import BaseDecoder, BaseEncoder
from torch import Tensor, nn

TRUNK = 256
CHANNELS = (32, 64, 128, 128)
TEXT_WIDTH = 128


def fast() -> torch.autocast:
    """bfloat16 where the processor has it, as our own training does."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def levels(side: int) -> int:
    """Halvings down to a map of 4."""
    return max(1, side.bit_length() - 3)


def grid_trunk(shape: tuple[int, int, int]) -> nn.Module:
    """(B, C, H, W) to (B, TRUNK)."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    before = channels
    for after in CHANNELS[: levels(min(height, width))]:
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.SiLU()]
        before = after
    factor = 2 ** levels(min(height, width))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(before * (height // factor) * (width // factor), TRUNK), nn.SiLU()
    )


def grid_head(shape: tuple[int, int, int], latent: int) -> nn.Module:
    """(B, latent) to (B, C, H, W)."""
    channels, height, width = shape
    count = levels(min(height, width))
    factor, widths = 2**count, CHANNELS[:count][::-1]
    low = (height // factor, width // factor)
    layers: list[nn.Module] = [
        nn.Linear(latent, TRUNK), nn.SiLU(), nn.Linear(TRUNK, widths[0] * low[0] * low[1]), nn.SiLU(),
        nn.Unflatten(1, (widths[0], *low)),
    ]  # fmt: skip
    for before, after in zip(widths, (*widths[1:], channels), strict=True):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class TextTrunk(nn.Module):
    """One-hot texts (B, L, V) to (B, TRUNK)."""

    def __init__(self, length: int, vocabulary: int) -> None:
        super().__init__()
        self.embed = nn.Linear(vocabulary, TEXT_WIDTH)
        self.convolve = nn.Sequential(
            nn.Conv1d(TEXT_WIDTH, TEXT_WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv1d(TEXT_WIDTH, TEXT_WIDTH, 3, padding=1), nn.SiLU(), nn.Flatten(),
            nn.Linear(TEXT_WIDTH * length, TRUNK), nn.SiLU(),
        )  # fmt: skip

    def forward(self, x_BLV: Tensor) -> Tensor:
        out: Tensor = self.convolve(self.embed(x_BLV).transpose(1, 2))
        return out


class TextHead(nn.Module):
    """(B, latent) to logits (B, L, V)."""

    def __init__(self, length: int, vocabulary: int, latent: int) -> None:
        super().__init__()
        self.start = nn.Sequential(
            nn.Linear(latent, TRUNK), nn.SiLU(), nn.Linear(TRUNK, TEXT_WIDTH * length),
            nn.Unflatten(1, (TEXT_WIDTH, length)), nn.SiLU(),
            nn.Conv1d(TEXT_WIDTH, TEXT_WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv1d(TEXT_WIDTH, TEXT_WIDTH, 3, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Linear(TEXT_WIDTH, vocabulary)

    def forward(self, z_BZ: Tensor) -> Tensor:
        out: Tensor = self.out(self.start(z_BZ).transpose(1, 2))
        return out


def trunk(shape: tuple[int, ...]) -> nn.Module:
    """The trunk of a modality: grids (C, H, W), texts (L, V)."""
    return TextTrunk(*shape) if len(shape) == 2 else grid_trunk(shape)


def head(shape: tuple[int, ...], latent: int) -> nn.Module:
    """The mirror of `trunk`."""
    return TextHead(*shape, latent) if len(shape) == 2 else grid_head(shape, latent)


class Encoder(BaseEncoder):
    """Mean and log variance of the latent."""

    def __init__(self, shape: tuple[int, ...], latent: int) -> None:
        BaseEncoder.__init__(self)
        self.latent_dim = latent
        self.trunk, self.out = trunk(shape), nn.Linear(TRUNK, 2 * latent)

    def forward(self, x: Tensor) -> ModelOutput:
        with fast():
            mean, log_variance = self.out(self.trunk(x)).float().chunk(2, dim=-1)
        return ModelOutput(embedding=mean, log_covariance=log_variance.clamp(-12, 6))


class PrivateEncoder(BaseMultilatentEncoder):
    """As `Encoder`, with a latent of the modality's own beside the shared one (MMVAE+)."""

    def __init__(self, shape: tuple[int, ...], latent: int, private: int) -> None:
        BaseMultilatentEncoder.__init__(self)
        self.latent_dim, self.style_dim = latent, private
        self.trunk, self.out = trunk(shape), nn.Linear(TRUNK, 2 * (latent + private))

    def forward(self, x: Tensor) -> ModelOutput:
        with fast():
            parts = self.out(self.trunk(x)).float().split((self.latent_dim,) * 2 + (self.style_dim,) * 2, dim=-1)
        return ModelOutput(
            embedding=parts[0], log_covariance=parts[1], style_embedding=parts[2], style_log_covariance=parts[3]
        )


class Decoder(BaseDecoder):
    """The mean of a grid, or the logits of a text."""

    def __init__(self, shape: tuple[int, ...], latent: int) -> None:
        BaseDecoder.__init__(self)
        self.latent_dim = latent
        self.head = head(shape, latent)

    def forward(self, z: Tensor) -> ModelOutput:
        flat = z.reshape(-1, z.shape[-1])
        with fast():
            made = self.head(flat).float()
        return ModelOutput(reconstruction=made.reshape(*z.shape[:-1], *made.shape[1:]))


def encoders(shapes: Mapping[str, tuple[int, ...]], latent: int, private: int = 0) -> dict[str, nn.Module]:
    """One per modality; with a private latent if it has a width."""
    if private:
        return {slot: PrivateEncoder(shape, latent, private) for slot, shape in shapes.items()}
    return {slot: Encoder(shape, latent) for slot, shape in shapes.items()}


def decoders(shapes: Mapping[str, tuple[int, ...]], latent: int) -> dict[str, nn.Module]:
    """One per modality."""
    return {slot: Decoder(shape, latent) for slot, shape in shapes.items()}
