"""Convolutional trunk that image and audio codecs share: a grid of values to a coarser grid of latents and back.

Shape suffixes: B batch, C channels, H and W height and width of the grid, T = H·W tokens, D latent width.
The first layer folds patches into channels (space to depth), so that no convolution runs at full resolution:
on CPU that is where nearly all of the time of such a network goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.errors import ConfigError

NORM_GROUPS = 8


class ResidualBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv:1603.05027) with group norm; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(NORM_GROUPS, width)
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.norm_out = nn.GroupNorm(NORM_GROUPS, width)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = self.conv_in(F.silu(self.norm_in(x_BCHW)))
        out: Tensor = x_BCHW + self.conv_out(F.silu(self.norm_out(h_BCHW)))
        return out


class GridEncoder(nn.Module):
    """(B, channels, H, W) to (B, out, H/f, W/f) with f = patch · 2^(len(widths) - 1)."""

    def __init__(self, channels: int, patch: int, widths: tuple[int, ...], depth: int, out: int) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [nn.Conv2d(channels * patch * patch, widths[0], 3, padding=1)]
        for level, width in enumerate(widths):
            layers += [ResidualBlock(width) for _ in range(depth)]
            if level + 1 < len(widths):
                layers.append(nn.Conv2d(width, widths[level + 1], 2, stride=2))
        layers += [nn.GroupNorm(NORM_GROUPS, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(x_BCHW, self.patch)
        out: Tensor = self.layers(folded.contiguous(memory_format=torch.channels_last))
        return out


class GridDecoder(nn.Module):
    """The mirror of GridEncoder: (B, D, h, w) to (B, channels, h·f, w·f)."""

    def __init__(self, channels: int, patch: int, widths: tuple[int, ...], depth: int, latent_width: int) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [nn.Conv2d(latent_width, widths[-1], 3, padding=1)]
        for level in reversed(range(len(widths))):
            layers += [ResidualBlock(widths[level]) for _ in range(depth)]
            if level:
                layers.append(nn.ConvTranspose2d(widths[level], widths[level - 1], 2, stride=2))
        layers += [nn.GroupNorm(NORM_GROUPS, widths[0]), nn.SiLU()]
        layers.append(nn.Conv2d(widths[0], channels * patch * patch, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, z_BDHW: Tensor) -> Tensor:
        folded: Tensor = self.layers(z_BDHW.contiguous(memory_format=torch.channels_last))
        return F.pixel_shuffle(folded.contiguous(), self.patch)


@dataclass(frozen=True)
class Terms:
    """What a codec is trained with beside its own loss.

    latent_noise: standard deviation of noise on the latents, in units of their own deviation over the batch, which then
    stands in the place of the posterior's learnt one: smooth latents without a divergence to pay for (a fixed variance:
    Sun et al. 2024, arXiv:2412.08635; in those units, so that no scale of the latents escapes it). 0: the learnt one.
    beside: (values, reconstructions), both (B, C, H, W), to {"loss": to be added, …: further parts to show}.
    """

    latent_noise: float = 0.0
    beside: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None


class GridCodec(nn.Module):
    """Variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114) over a 2-d grid of values.

    The Kullback-Leibler weight is small: it keeps the latents smooth and bounded enough for a flow, no more.

    Args:
        channels: channels of the grid.
        height, width: its size; both multiples of f = patch · 2^(len(widths) - 1).
        patch: side of the patch that the first layer folds into channels.
        widths: channels per level, finest first; each level after the first halves height and width.
        depth: residual blocks per level.
        latent_width: D.
        kl_weight: weight of the divergence (nats per latent number) beside the mean squared error per value.

    Raises:
        ConfigError: the size is no multiple of f.
    """

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        patch: int,
        widths: tuple[int, ...],
        depth: int,
        latent_width: int,
        kl_weight: float,
    ) -> None:
        super().__init__()
        factor = patch * 2 ** (len(widths) - 1)
        if height % factor or width % factor:
            wanted = f"wanted height and width that are multiples of {factor}, came {height} × {width}"
            raise ConfigError(f"codec: {wanted}; {_what_fits(height, width, factor)}")
        self.size, self.channels = (height, width), channels
        self.grid = (height // factor, width // factor)
        self.latent_width = latent_width
        self.kl_weight = kl_weight
        self.encoder = GridEncoder(channels, patch, tuple(widths), depth, 2 * latent_width)
        self.decoder = GridDecoder(channels, patch, tuple(widths), depth, latent_width)
        self.to(memory_format=torch.channels_last)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(T, D)."""
        return self.grid[0] * self.grid[1], self.latent_width

    def posterior(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each (B, D, h, w), float32."""
        mean, log_variance = self.encoder(x_BCHW).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 4.0)

    def encode_grid(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the posterior's mean as tokens (B, T, D), row by row."""
        return self.posterior(x_BCHW)[0].flatten(2).transpose(1, 2)

    def decode_grid(self, z_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, C, H, W), float32."""
        z_BDHW = z_BTD.transpose(1, 2).reshape(len(z_BTD), self.latent_width, *self.grid)
        out: Tensor = self.decoder(z_BDHW)
        return out.float()

    def grid_loss(self, x_BCHW: Tensor, rng: torch.Generator | None, terms: Terms | None = None) -> dict[str, Tensor]:
        """The negative evidence bound, up to constants, and `terms`: `loss`, `reconstruction`, `kl` and their parts."""
        mean, log_variance = self.posterior(x_BCHW)
        if terms is not None and terms.latent_noise:
            log_variance = _fixed_log_variance(mean, terms.latent_noise)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        made = self.decoder(mean + noise * (0.5 * log_variance).exp())
        reconstruction = F.mse_loss(made.float(), x_BCHW)
        kl = gaussian_kl(mean, log_variance)
        found = {
            "loss": reconstruction + self.kl_weight * kl, "reconstruction": reconstruction.detach(), "kl": kl.detach(),
        }  # fmt: skip
        if terms is not None and terms.beside is not None:
            further = terms.beside(x_BCHW, made.float())
            found = {**found, **further, "loss": found["loss"] + further["loss"]}
        return found


def _fixed_log_variance(mean: Tensor, noise: float) -> Tensor:
    """Of `noise` in units of each latent number's deviation over the batch; no gradient goes through it."""
    deviation = mean.detach().std(dim=(0, 2, 3), correction=0, keepdim=True)
    return (2 * (deviation.clamp_min(1e-6).log() + math.log(noise))).expand_as(mean)


def _what_fits(height: int, width: int, factor: int) -> str:
    """What to change: patches and numbers of widths that divide this size, nearest to `factor` first, and sizes."""
    side = math.gcd(height, width)
    known = [(patch, levels) for patch in (4, 2, 8, 1) for levels in range(1, 7) if side % (patch << levels - 1) == 0]
    near = sorted(known, key=lambda each: abs(math.log2((each[0] << each[1] - 1) / factor)))[:3]
    fits = ", or ".join(f"patch {patch} with {levels} width{'s'[: levels > 1]}" for patch, levels in near)
    sizes = [tuple(max(factor, length // factor * factor + more) for length in (height, width)) for more in (0, factor)]
    return f"this size fits {fits}; {factor} fits sizes such as {' and '.join(f'{h} × {w}' for h, w in sizes)}"


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) in nats, mean over all numbers (arXiv:1312.6114, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
