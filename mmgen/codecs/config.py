"""Settings of the codecs and of the judges that `fit` makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from mmgen.settings import Settings
from mmgen.training.config import PinConfig, TrainConfig


class GridTerms(Settings):
    """What a codec of images or of spectrograms is trained with beside its own loss; none of it by default."""

    later = frozenset({"adversarial_weight", "feature_weight", "perceptual_weight", "latent_noise"})

    #: weight of fooling a multi-scale patch discriminator (hinge), which trains beside the codec and is not kept
    adversarial_weight: float = Field(0.0, ge=0)
    #: weight of the distance from the original in that discriminator's features
    feature_weight: float = Field(0.0, ge=0)
    #: weight of the distance from the original in the features of a net with random, fixed filters
    perceptual_weight: float = Field(0.0, ge=0)
    #: noise on the latents in units of their deviation, instead of the learnt one; then kl_weight may be 0
    latent_noise: float = Field(0.0, ge=0)

    def terms(self) -> dict[str, float]:
        """The four by name."""
        return {name: getattr(self, name) for name in GridTerms.model_fields}


class ImageCodecConfig(GridTerms):
    """Convolutional variational autoencoder of images. The size must be a multiple of f = patch · 2^(len(widths) - 1).

    T is (size / f)². A flow over latents wants tens of them: patch 4 and widths of 2 levels for 32 px (T 16), 2 or 3
    levels for 64 px (T 64 or 16), 3 or 4 for 128 px (T 64 or 16), and patch 8 with 3 or 4 for 256 px (T 64 or 16).
    """

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


class GriffinLimConfig(Settings):
    """Sound of a spectrogram by Griffin & Lim's algorithm (1984): nothing is learned."""

    kind: Literal["griffin_lim"] = "griffin_lim"


class IstftConfig(Settings):
    """A vocoder that is learned from the training split's own sounds (Vocos, arXiv:2306.00814)."""

    kind: Literal["istft"] = "istft"
    #: channels of each frame
    width: int = Field(256, ge=8)
    #: ConvNeXt blocks
    depth: int = Field(6, ge=1)
    #: length of the parts of sounds that it is trained on: two windows of the slot at least, a whole clip at most
    segment_seconds: float = Field(0.5, gt=0)
    #: weight of the mean distance of log-mels (nats) beside that of the spectra
    mel_weight: float = Field(1.0, ge=0)
    train: TrainConfig = TrainConfig(steps=3_000, batch_size=16, learning_rate=1e-3, warmup_steps=100)


VocoderConfig = Annotated[GriffinLimConfig | IstftConfig, Field(discriminator="kind")]


class AudioCodecConfig(GridTerms):
    """Convolutional variational autoencoder of log-mel spectrograms. Sizes as for images."""

    later = GridTerms.later | {"vocoder"}

    kind: Literal["conv_mel"] = "conv_mel"
    #: side in mels and frames of the patches that the first layer folds into channels
    patch: int = Field(4, ge=1)
    widths: tuple[int, ...] = Field((64, 96, 128), min_length=1)
    depth: int = Field(1, ge=1)
    latent_width: int = Field(12, ge=1)
    kl_weight: float = Field(3e-3, ge=0)
    train: TrainConfig = TrainConfig(steps=1_000, batch_size=64, learning_rate=2e-3, warmup_steps=50)
    #: what makes sound of spectrograms; a part of its own, whose settings leave the codec as it is
    vocoder: VocoderConfig = GriffinLimConfig()


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


class AutoregressiveTextConfig(Settings):
    """The same, and back one token after another. Settings as for `tokens`, with one more."""

    kind: Literal["autoregressive"] = "autoregressive"
    vocab_size: int = Field(512, ge=260)
    width: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    depth: int = Field(2, ge=1)
    latent_tokens: int = Field(4, ge=1)
    latent_width: int = Field(8, ge=1)
    kl_weight: float = Field(1e-2, ge=0)
    token_dropout: float = Field(0.0, ge=0, lt=1)
    #: share of the decoder's tokens hidden in training, so that it looks at the latents
    word_dropout: float = Field(0.3, ge=0, lt=1)
    train: TrainConfig = TrainConfig(steps=1_000, batch_size=64, learning_rate=2e-3, warmup_steps=50)


def _kind(settings: Any) -> Any:
    """Which text codec is meant: `tokens` where nothing else is said."""
    return settings.get("kind", "tokens") if isinstance(settings, Mapping) else getattr(settings, "kind", None)


AnyTextCodecConfig = Annotated[
    Annotated[TextCodecConfig, Tag("tokens")] | Annotated[AutoregressiveTextConfig, Tag("autoregressive")],
    Discriminator(
        _kind,
        custom_error_type="text_codec",
        custom_error_message="wanted the settings of a text codec, of kind tokens or autoregressive",
    ),
]


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
    """Codecs by modality. Slots share one where their values agree in size; another size has its own, made alike."""

    image: AnyImageCodec = ImageCodecConfig()
    audio: AnyAudioCodec = AudioCodecConfig()
    text: AnyTextCodecConfig = TextCodecConfig()
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
