"""Codecs that others trained, behind the protocol of ours: diffusers' AutoencoderKL and transformers' EnCodec.

`fit` takes their weights as they are and pins them by their bytes. They are made from `architecture`, which is their
library's own settings as plain data, so that a package holds all that is needed to make them anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.errors import ConfigError
from mmgen.pretrained import CONFIG, library, read_json, whole


class AutoencoderKLCodec(nn.Module):
    """diffusers' AutoencoderKL (Rombach et al. 2022, arXiv:2112.10752): images to the posterior's mean and back.

    Latents are the mean as it comes, without the library's `scaling_factor`: their statistics are kept beside them, as
    of any codec.

    Args:
        architecture: the library's settings of the model.
        channels, height, width: of the images, normalised to [-1, 1]; a grey one is given to all three colours, and
            their mean is the answer. Both sides are multiples of 2^(levels - 1).

    Raises:
        ConfigError: sizes or channels that the model does not have.
    """

    def __init__(self, *, architecture: Mapping[str, Any], channels: int, height: int, width: int) -> None:
        super().__init__()
        self.net: Any = library("diffusers").AutoencoderKL.from_config(_public(architecture))
        settings = self.net.config
        if (channels != settings.in_channels and channels != 1) or settings.in_channels != settings.out_channels:
            raise ConfigError(
                f"autoencoder_kl: wanted images of {settings.in_channels} channels (or 1), came {channels}; "
                "set slots.….channels"
            )
        factor = 2 ** (len(settings.block_out_channels) - 1)
        if height % factor or width % factor:
            raise ConfigError(
                f"autoencoder_kl: wanted height and width that are multiples of {factor}, came {height} × {width}"
            )
        self.channels, self.grid = channels, (height // factor, width // factor)
        self.latent_width = int(settings.latent_channels)

    @classmethod
    def load(cls, folder: Path, *, channels: int, height: int, width: int) -> Self:
        """The codec that `save_pretrained` wrote. Raises ConfigError."""
        made = cls(architecture=architecture_of(folder, "AutoencoderKL"), channels=channels, height=height, width=width)
        made.net = whole(library("diffusers").AutoencoderKL, folder, low_cpu_mem_usage=False, torch_dtype=torch.float32)
        return made

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(T, D)."""
        return self.grid[0] * self.grid[1], self.latent_width

    def encode(self, value: Tensor) -> Tensor:
        """Images (B, C, H, W) to the posterior's mean as tokens (B, T, D), row by row."""
        wide = value if self.channels > 1 else value.expand(-1, self.net.config.in_channels, -1, -1)
        mean_BDHW: Tensor = self.net.encode(wide).latent_dist.mean
        return mean_BDHW.float().flatten(2).transpose(1, 2)

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to images (B, C, H, W), not clipped."""
        z_BDHW = z_BTD.transpose(1, 2).reshape(len(z_BTD), self.latent_width, *self.grid)
        made: Tensor = self.net.decode(z_BDHW).sample.float()
        return made if self.channels > 1 else made.mean(1, keepdim=True)

    def loss(self, value: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Squared error per value; for tuning, as `fit` trains no pretrained codec."""
        return _loss(self.decode(self.encode(value)), value)


class EncodecCodec(nn.Module):
    """transformers' EnCodec (Défossez et al. 2022, arXiv:2210.13438): waveforms to continuous embeddings and back.

    Latents are the encoder's output before quantisation, one token for each frame. The decoder only ever saw quantised
    ones, so `decode` first moves each to what the codebooks say, at the highest rate: what a generator makes a little
    beside the data is put right by it.

    Args:
        architecture: the library's settings of the model.
        samples: N of a clip (B, 1, N) in [-1, 1].
        sample_rate_hz: of the slot; the model's own.

    Raises:
        ConfigError: another rate, or a model that cuts clips or divides each by its loudness (which no latent holds).
    """

    def __init__(self, *, architecture: Mapping[str, Any], samples: int, sample_rate_hz: int) -> None:
        super().__init__()
        transformers = library("transformers")
        settings = transformers.EncodecConfig(**_public(architecture))
        if settings.sampling_rate != sample_rate_hz:
            raise ConfigError(
                f"encodec: wanted slots.….sample_rate_hz {settings.sampling_rate}, as the codec was trained with, "
                f"came {sample_rate_hz}"
            )
        if settings.normalize or settings.chunk_length_s is not None:
            raise ConfigError(
                "encodec: wanted a model with normalize false and no chunk_length_s (the 24 kHz kind); this one keeps "
                "the loudness of each chunk outside the latents"
            )
        self.net: Any = transformers.EncodecModel(settings)
        self.samples, self.stereo = samples, settings.audio_channels
        self.frames = math.ceil(samples / math.prod(settings.upsampling_ratios))
        self.latent_width = int(settings.hidden_size)

    @classmethod
    def load(cls, folder: Path, *, samples: int, sample_rate_hz: int) -> Self:
        """The codec that `save_pretrained` wrote. Raises ConfigError."""
        made = cls(architecture=architecture_of(folder, "EncodecModel"), samples=samples, sample_rate_hz=sample_rate_hz)
        made.net = whole(library("transformers").EncodecModel, folder, dtype=torch.float32)
        return made

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(T, D)."""
        return self.frames, self.latent_width

    def encode(self, value: Tensor) -> Tensor:
        """Waveforms (B, 1, N) to embeddings before quantisation (B, T, D)."""
        z_BDT: Tensor = self.net.encoder(value.float().expand(-1, self.stereo, -1))
        return z_BDT.transpose(1, 2)

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Embeddings (B, T, D), quantised first, to waveforms (B, 1, N), not clipped."""
        quantizer = self.net.quantizer
        return self._waves(quantizer.decode(quantizer.encode(z_BTD.transpose(1, 2), None)))

    def _waves(self, z_BDT: Tensor) -> Tensor:
        made: Tensor = self.net.decoder(z_BDT)[..., : self.samples].mean(1, keepdim=True)
        return F.pad(made, (0, self.samples - made.shape[-1]))

    def loss(self, value: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Squared error per value without quantisation, which has no gradient; `fit` trains no pretrained codec."""
        return _loss(self._waves(self.encode(value).transpose(1, 2)), value)


def _loss(made: Tensor, value: Tensor) -> dict[str, Tensor]:
    loss = F.mse_loss(made.float(), value.float())
    return {"loss": loss, "reconstruction": loss.detach()}


def _public(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without what a library notes of itself."""
    return {name: value for name, value in architecture.items() if not name.startswith("_")}


def architecture_of(folder: Path, wanted: str) -> dict[str, Any]:
    """The settings in a model's folder. Raises ConfigError unless they are of a `wanted`."""
    found = read_json(folder, CONFIG)
    names = [found["_class_name"]] if "_class_name" in found else list(found.get("architectures") or [])
    if wanted not in names:
        raise ConfigError(
            f"{folder}: wanted a model of kind {wanted}, its {CONFIG} says {', '.join(names) or 'nothing'}"
        )
    return found
