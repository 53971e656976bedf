"""Settings of the codecs and of the judges that `fit` makes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mmgen.settings import Settings
from mmgen.training.config import PinConfig, TrainConfig


class ImageCodecConfig(Settings):
    """Convolutional variational autoencoder of images. The size must be a multiple of patch · 2^(len(widths) - 1)."""

    kind: Literal["conv_image"] = "conv_image"
    #: side in pixels of the patches that the first layer folds into channels
    patch: int = Field(4, ge=1)
    #: channels per level, multiples of 8; each level after the first halves height and width
    widths: tuple[int, ...] = Field((64, 128), min_length=1)
    #: residual blocks per level
    depth: int = Field(2, ge=1)
    #: D of the latent x_BTD; T follows from the size, the patch and the levels
    latent_width: int = Field(8, ge=1)
    #: nats per latent number beside the squared error per pixel
    kl_weight: float = Field(3e-3, ge=0)
    train: TrainConfig = TrainConfig(steps=500, batch_size=64, learning_rate=2e-3, warmup_steps=50)


class AudioCodecConfig(Settings):
    """Convolutional variational autoencoder of log-mel spectrograms. Sizes as for images."""

    kind: Literal["conv_mel"] = "conv_mel"
    #: side in mels and frames of the patches that the first layer folds into channels
    patch: int = Field(4, ge=1)
    widths: tuple[int, ...] = Field((64, 96, 128), min_length=1)
    depth: int = Field(1, ge=1)
    latent_width: int = Field(12, ge=1)
    kl_weight: float = Field(3e-3, ge=0)
    train: TrainConfig = TrainConfig(steps=1_000, batch_size=64, learning_rate=2e-3, warmup_steps=50)


class TextCodecConfig(Settings):
    """Byte-level BPE tokens to a few latent tokens and back, all positions at once."""

    kind: Literal["tokens"] = "tokens"
    vocab_size: int = Field(512, ge=260)
    width: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    #: blocks of the encoder, and of the decoder
    depth: int = Field(2, ge=1)
    latent_tokens: int = Field(4, ge=1)
    latent_width: int = Field(8, ge=1)
    #: nats per latent number beside the cross-entropy per token
    kl_weight: float = Field(1e-2, ge=0)
    #: share of the encoder's tokens hidden in training
    token_dropout: float = Field(0.0, ge=0, lt=1)
    train: TrainConfig = TrainConfig(steps=1_000, batch_size=64, learning_rate=2e-3, warmup_steps=50)


class PretrainedCodecConfig(Settings):
    """A codec that another library trained; `fit` takes its weights as they are, and they count by their bytes."""

    #: a folder that save_pretrained wrote, or the name of a model on the hub; never part of a fingerprint
    source: str
    #: a commit, tag or branch of the hub's model; None: its main one
    revision: str | None = None


class AutoencoderKLConfig(PretrainedCodecConfig):
    """diffusers' AutoencoderKL (extra `pretrained`). Image slots keep mean and std at 0.5: it wants [-1, 1]."""

    kind: Literal["autoencoder_kl"]


class EncodecConfig(PretrainedCodecConfig):
    """transformers' EncodecModel (extra `pretrained`). Audio slots are waveforms, at the codec's own sample rate."""

    kind: Literal["encodec"]


AnyImageCodec = Annotated[ImageCodecConfig | AutoencoderKLConfig, Field(discriminator="kind")]
AnyAudioCodec = Annotated[AudioCodecConfig | EncodecConfig, Field(discriminator="kind")]


class CodecsConfig(Settings):
    """One codec per modality, shared by its slots."""

    image: AnyImageCodec = ImageCodecConfig()
    audio: AnyAudioCodec = AudioCodecConfig()
    text: TextCodecConfig = TextCodecConfig()
    pin: PinConfig = PinConfig()

    @field_validator("image", mode="before")
    @classmethod
    def _image_kind(cls, settings: Any) -> Any:
        return {"kind": "conv_image", **settings} if isinstance(settings, dict) else settings

    @field_validator("audio", mode="before")
    @classmethod
    def _audio_kind(cls, settings: Any) -> Any:
        return {"kind": "conv_mel", **settings} if isinstance(settings, dict) else settings


class JudgesConfig(Settings):
    """Classifiers trained on real data only, for evaluation only."""

    seed: int = 7_001
    #: tables with more classes than this are judged without labels
    max_classes: int = 100
    width: int = 32
    train: TrainConfig = TrainConfig(steps=400, batch_size=64, learning_rate=2e-3, warmup_steps=50)
