"""Codecs by the name that a configuration gives them, and what each of them is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mmgen.codecs.audio import AudioCodec
from mmgen.codecs.autoregressive import AutoregressiveTextCodec
from mmgen.codecs.image import ImageCodec
from mmgen.codecs.pretrained import AutoencoderKLCodec, EncodecCodec
from mmgen.codecs.text import TextCodec
from mmgen.codecs.vocoder import IstftVocoder


class Codec(Protocol):
    """A value of one modality to latents z_BTD and back."""

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(T, D)."""
        ...

    def encode(self, value: Tensor) -> Tensor:
        """Value (B, …) to latents (B, T, D), float32, deterministic."""
        ...

    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to a value (B, …): float32, or int64 ids for text."""
        ...

    def loss(self, value: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss` to be minimised, and detached parts of it to show."""
        ...


CODECS: dict[
    str,
    type[ImageCodec]
    | type[AudioCodec]
    | type[TextCodec]
    | type[AutoregressiveTextCodec]
    | type[AutoencoderKLCodec]
    | type[EncodecCodec],
] = {
    "conv_image": ImageCodec,
    "conv_mel": AudioCodec,
    "tokens": TextCodec,
    "autoregressive": AutoregressiveTextCodec,
    "autoencoder_kl": AutoencoderKLCodec,
    "encodec": EncodecCodec,
}

#: what makes sound of spectrograms; None where nothing is learned (mmgen.preprocess.audio does it)
VOCODERS: dict[str, type[IstftVocoder] | None] = {
    "griffin_lim": None,
    "istft": IstftVocoder,
}
