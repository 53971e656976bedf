"""Settings of the encoders, and of the features that frozen ones give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from mmgen.settings import Settings

#: what training changes of an encoder that another library made: nothing; the projection to `width`; adapters and the
#: projection; everything
Trainable = Literal["frozen", "head", "adapters", "all"]


class OwnEncoder(Settings):
    """One slot's encoder, by its name in the table; all of it is trained."""

    kind: Literal[
        "bilstm_text", "bilstm_rows", "cnn_image", "cnn_mel", "resnet18_image", "transformer_mel", "transformer_text"
    ]
    #: width of what it gives out
    width: int = 256
    #: local safetensors to start from; None: random
    weights: str | None = None


class ForeignEncoder(Settings):
    """An encoder that another library made: a trunk, and a projection of what it gives to `width`."""

    #: width of what it gives out; None: the trunk's own, without a projection
    width: int | None = Field(None, ge=1)
    trainable: Trainable = "head"
    #: width of the adapters' hidden layer, one after each block of the trunk (Houlsby et al. 2019, arXiv:1902.00751)
    adapter_width: int = Field(16, ge=1)
    #: what `extract` caches: one vector, or a vector for each token (patches, frames, words; padding is zeros)
    output: Literal["pooled", "tokens"] = "pooled"


class TorchvisionEncoder(ForeignEncoder):
    """An architecture of torchvision.models by its name: resnet*, vit_*, convnext_*, efficientnet_*, swin_*, …."""

    kind: Literal["torchvision_image"]
    model: str
    #: local safetensors of torchvision's own names; None: random
    weights: str | None = None
    #: arguments of its constructor, such as image_size
    options: dict[str, Any] = Field(default_factory=dict)
    #: images are resized to this side; None: the model's own where it has one (ViT), else as they are, 32 at least
    size_px: int | None = Field(None, ge=32)


class TorchaudioEncoder(ForeignEncoder):
    """An architecture of torchaudio.models over waveforms: wav2vec2_base, hubert_base, wav2vec2_model, ….

    Audio slots that are spectrograms are refused: set their `representation` to waveform.
    """

    kind: Literal["torchaudio_audio"]
    model: str
    #: local safetensors of torchaudio's own names (a bundle's state); None: random
    weights: str | None = None
    #: arguments of its constructor
    options: dict[str, Any] = Field(default_factory=dict)
    #: rate that the model was trained at
    sample_rate_hz: int = Field(16_000, ge=4_000)


class TransformersEncoder(ForeignEncoder):
    """A model of transformers (extra `pretrained`) from a folder that save_pretrained wrote, or by its name on the hub.

    image: CLIP's and SigLIP's towers, ViT, DINOv2, …; text: BERT and its kin, CLIP's tower, with their own tokenizer;
    audio (waveform slots): wav2vec2, HuBERT, WavLM, CLAP's tower.
    """

    kind: Literal["transformers_image", "transformers_text", "transformers_audio"]
    source: str
    #: a commit, tag or branch of the hub's model; None: its main one
    revision: str | None = None
    #: longest text in the model's own tokens; None: twice the slot's max_tokens, as far as the model goes
    max_tokens: int | None = Field(None, ge=4)


EncoderConfig = Annotated[
    OwnEncoder | TorchvisionEncoder | TorchaudioEncoder | TransformersEncoder, Field(discriminator="kind")
]

#: an encoder of ours by its name alone, or any with its settings
AnyEncoder = Annotated[
    Annotated[str, Tag("name")] | Annotated[EncoderConfig, Tag("settings")],
    Discriminator(lambda given: "name" if isinstance(given, str) else "settings"),
]


class ExtractConfig(Settings):
    """What `extract` makes beside tensors and latents."""

    #: slot → a frozen encoder, whose vectors are cached as the feature set `embeddings`
    encoders: dict[str, EncoderConfig] = Field(default_factory=dict)
