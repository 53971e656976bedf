"""Settings of the encoders, and of the features that frozen ones give."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmgen.settings import Settings


class EncoderConfig(Settings):
    """One slot's encoder, by its name in the table."""

    kind: Literal["bilstm_text", "bilstm_rows", "cnn_image", "cnn_mel", "resnet18_image", "transformer_text"]
    #: width of what it gives out
    width: int = 256
    #: local safetensors to start from; None: random
    weights: str | None = None


class ExtractConfig(Settings):
    """What `extract` makes beside tensors and latents."""

    #: slot → a frozen encoder, whose vectors are cached as the feature set `embeddings`
    encoders: dict[str, EncoderConfig] = Field(default_factory=dict)
