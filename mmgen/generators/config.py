"""Settings of the generators."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmgen.encoders.config import EncoderConfig
from mmgen.settings import Settings
from mmgen.training.config import InitConfig, PinConfig, TrainConfig


class JointFlowConfig(Settings):
    """Joint latent rectified flow, one time per slot."""

    later = frozenset({"init"})

    kind: Literal["joint_flow"] = "joint_flow"
    #: an earlier generator to start from; None: random weights
    init: InitConfig | None = None
    width: int = Field(512, ge=8)
    blocks: int = Field(6, ge=1)
    #: width of the blocks' hidden layer; None: twice the width
    hidden: int | None = None
    #: the fusion embeddings of the given slots are a further condition
    fusion_condition: bool = True
    #: share of training rows in which every slot that is present is made
    joint_share: float = Field(0.4, ge=0, le=1)
    #: share of training rows whose slots that are made have one time together, as they have in sampling
    shared_time: float = Field(0.9, ge=0, le=1)
    #: chance of a slot to be given, and to be left out, in rows that are not joint
    given_share: float = Field(0.4, ge=0, le=1)
    absent_share: float = Field(0.3, ge=0, le=1)
    #: chance that a given slot comes without its fusion embedding, and that it comes with nothing else
    condition_dropout: float = Field(0.2, ge=0, le=0.5)
    #: standard deviation of noise on what is given in training, beside latents and embeddings of deviation 1
    given_noise: float = Field(0.4, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    sampler: Literal["euler", "heun"] = "euler"
    train: TrainConfig = TrainConfig(steps=1_800, batch_size=256, learning_rate=1e-3, ema_decay=0.999, warmup_steps=100)
    pin: PinConfig = PinConfig()


class ConcatBaselineConfig(Settings):
    """The textbook floor: encoders, concatenation, one decoded slot, and a label head."""

    later = frozenset({"init"})

    kind: Literal["concat_baseline"] = "concat_baseline"
    #: an earlier generator to start from; None: random weights
    init: InitConfig | None = None
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
