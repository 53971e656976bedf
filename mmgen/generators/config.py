"""Settings of the generators."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmgen.encoders.config import EncoderConfig
from mmgen.settings import Settings
from mmgen.training.config import PinConfig, TrainConfig


class JointFlowConfig(Settings):
    """Joint latent rectified flow, one time per slot."""

    kind: Literal["joint_flow"] = "joint_flow"
    width: int = 512
    blocks: int = 4
    #: share of samples whose slots have one time together, for joint sampling
    shared_time: float = Field(1 / 3, ge=0, le=1)
    #: chance that the fusion embedding of the given slots is dropped, for guidance
    condition_dropout: float = Field(0.1, ge=0, le=1)
    train: TrainConfig = TrainConfig(steps=1_800, batch_size=256, ema_decay=0.999)
    pin: PinConfig = PinConfig()


class ConcatBaselineConfig(Settings):
    """The textbook floor: encoders, concatenation, one decoded slot, and a label head."""

    kind: Literal["concat_baseline"] = "concat_baseline"
    #: slot → its encoder; all of them are inputs
    encoders: dict[str, EncoderConfig]
    #: the slot it makes
    target: str
    label_weight: float = 1.0
    #: chance that an input slot is hidden in training, so that the target is learnt from the others
    hide: float = Field(0.5, ge=0, lt=1)
    train: TrainConfig = TrainConfig(epochs=10, batch_size=16, optimizer="adam", weight_decay=0, schedule="constant")
    pin: PinConfig = PinConfig()


GeneratorConfig = Annotated[JointFlowConfig | ConcatBaselineConfig, Field(discriminator="kind")]
