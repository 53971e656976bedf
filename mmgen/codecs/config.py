"""Settings of the codecs and of the judges that `fit` makes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmgen.settings import Settings
from mmgen.training.config import PinConfig, TrainConfig


class ImageCodecConfig(Settings):
    """Convolutional autoencoder of images."""

    kind: Literal["conv_image"] = "conv_image"
    width: int = 32
    #: D of the latent x_BTD; T follows from the size and the down-sampling
    latent_width: int = 8
    #: each level halves height and width
    levels: int = 3
    train: TrainConfig = TrainConfig(steps=500, batch_size=64)


class AudioCodecConfig(Settings):
    """Convolutional autoencoder of log-mel spectrograms."""

    kind: Literal["conv_mel"] = "conv_mel"
    width: int = 64
    latent_width: int = 12
    #: side of the square patches that the stem makes tokens of
    patch: int = 4
    levels: int = 2
    train: TrainConfig = TrainConfig(steps=1_400, batch_size=64)


class TextCodecConfig(Settings):
    """Byte-level BPE tokens to a few latent tokens and back."""

    kind: Literal["tokens"] = "tokens"
    vocab_size: int = Field(512, ge=260)
    width: int = 128
    layers: int = 2
    latent_tokens: int = 4
    latent_width: int = 8
    train: TrainConfig = TrainConfig(steps=1_000, batch_size=64)


class CodecsConfig(Settings):
    """One codec per modality, shared by its slots."""

    image: ImageCodecConfig = ImageCodecConfig()
    audio: AudioCodecConfig = AudioCodecConfig()
    text: TextCodecConfig = TextCodecConfig()
    pin: PinConfig = PinConfig()


class JudgesConfig(Settings):
    """Classifiers trained on real data only, for evaluation only."""

    seed: int = 7_001
    #: tables with more classes than this are judged without labels
    max_classes: int = 100
    width: int = 32
    train: TrainConfig = TrainConfig(steps=400, batch_size=64)
