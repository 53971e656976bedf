"""Settings of the fusion model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmgen.encoders.config import AnyEncoder
from mmgen.records import Modality
from mmgen.settings import Settings
from mmgen.training.config import InitConfig, PinConfig, TrainConfig


class FusionConfig(Settings):
    """Any subset of slots to one embedding; contrastive between every pair of slots, and a label head."""

    later = frozenset({"init"})

    kind: Literal["concat", "gated"] = "gated"
    #: an earlier fusion model to start from; None: random weights
    init: InitConfig | None = None
    #: D of the embedding
    width: int = Field(128, ge=8)
    #: encoder of each modality's slots: a name of the encoders' table, or settings (of another library's, or weights to
    #: start from); its width is the fusion's
    encoders: dict[Modality, AnyEncoder] = Field({"image": "cnn_image", "audio": "cnn_mel", "text": "transformer_text"})
    #: disturb images and sounds in training
    augment: bool = True
    #: weight of the label head's loss, where there are labels
    label_weight: float = 1.0
    contrastive_weight: float = 1.0
    train: TrainConfig = TrainConfig(steps=500, batch_size=128, learning_rate=2e-3, warmup_steps=50)
    pin: PinConfig = PinConfig()
