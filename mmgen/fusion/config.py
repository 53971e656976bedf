"""Settings of the fusion model."""

from __future__ import annotations

from typing import Literal

from mmgen.settings import Settings
from mmgen.training.config import PinConfig, TrainConfig


class FusionConfig(Settings):
    """Any subset of slots to one embedding; contrastive between every pair of slots, and a label head."""

    kind: Literal["concat"] = "concat"
    width: int = 128
    #: weight of the label head's loss, where there are labels
    label_weight: float = 1.0
    contrastive_weight: float = 1.0
    train: TrainConfig = TrainConfig(steps=600, batch_size=128)
    pin: PinConfig = PinConfig()
