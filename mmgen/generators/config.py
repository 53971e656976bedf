"""Settings of the generators."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mmgen.encoders.config import EncoderConfig
from mmgen.settings import Settings
from mmgen.training.config import InitConfig, PinConfig, TrainConfig


class JointFlowConfig(Settings):
    """Joint latent rectified flow, one time per slot."""

    later = frozenset({"init", "network"})

    kind: Literal["joint_flow"] = "joint_flow"
    #: residual: all latents side by side through residual blocks; transformer: every latent token by itself
    network: Literal["residual", "transformer"] = "residual"
    #: an earlier generator to start from; None: random weights
    init: InitConfig | None = None
    #: of the network; a multiple of 32 for a transformer
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
    sampler: Literal["euler", "heun", "dpm"] = "euler"
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


class AdversarialConfig(Settings):
    """Noise and what is given to latents in one pass, trained by an energy score and against a discriminator."""

    kind: Literal["adversarial"] = "adversarial"
    #: of the generator's layers, and of the discriminator's, which is not kept
    width: int = Field(512, ge=8)
    blocks: int = Field(4, ge=1)
    #: width of the blocks' hidden layer; None: twice the width
    hidden: int | None = None
    #: numbers of noise that a sample is made from
    noise_width: int = Field(64, ge=1)
    #: the fusion embeddings of the given slots are a further condition
    fusion_condition: bool = True
    #: as in JointFlowConfig
    joint_share: float = Field(0.4, ge=0, le=1)
    given_share: float = Field(0.4, ge=0, le=1)
    absent_share: float = Field(0.3, ge=0, le=1)
    condition_dropout: float = Field(0.2, ge=0, le=0.5)
    given_noise: float = Field(0.4, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    #: weight of fooling the discriminator (hinge); 0: none is trained
    adversarial_weight: float = Field(0.1, ge=0)
    #: weight of the energy score of two draws
    energy_weight: float = Field(1.0, ge=0)
    #: weight of the discriminator's mean squared slope at real latents
    penalty_weight: float = Field(0.1, ge=0)
    train: TrainConfig = TrainConfig(
        steps=1_800, batch_size=256, learning_rate=1e-3, beta1=0.5, ema_decay=0.999, warmup_steps=100
    )
    pin: PinConfig = PinConfig()

    @model_validator(mode="after")
    def _learns(self) -> AdversarialConfig:
        if self.adversarial_weight + self.energy_weight == 0:
            raise ValueError("wanted adversarial_weight or energy_weight above 0, came 0 for both")
        return self


class AutoregressiveConfig(Settings):
    """Text slots one token after another, from what is given of the others."""

    kind: Literal["autoregressive"] = "autoregressive"
    #: the text slots it writes; none named: all text slots
    targets: tuple[str, ...] = ()
    width: int = Field(128, ge=8)
    heads: int = Field(4, ge=1)
    #: blocks of the decoder
    depth: int = Field(4, ge=1)
    #: what is given of a slot: its latent tokens, its fusion embedding, or both
    latent_condition: bool = True
    fusion_condition: bool = True
    #: chance of a slot that a training row has to be given
    given_share: float = Field(0.8, ge=0, le=1)
    #: share of training rows whose text is learned with nothing given: the branch that guidance moves away from
    condition_dropout: float = Field(0.1, ge=0, le=1)
    #: standard deviation of noise on what is given in training, beside latents and embeddings of deviation 1
    given_noise: float = Field(0.1, ge=0)
    #: share of the tokens before that are hidden in training, so that what is given is looked at
    word_dropout: float = Field(0.1, ge=0, lt=1)
    #: how it samples where nothing else is asked for: see mmgen.generators.sampling
    temperature: float = Field(1.0, ge=0)
    top_k: int | None = Field(None, ge=1)
    top_p: float = Field(1.0, gt=0, le=1)
    beams: int = Field(1, ge=1)
    train: TrainConfig = TrainConfig(steps=1_500, batch_size=64, learning_rate=1e-3, ema_decay=0.999, warmup_steps=100)
    pin: PinConfig = PinConfig()

    @model_validator(mode="after")
    def _has_a_condition(self) -> AutoregressiveConfig:
        if not (self.latent_condition or self.fusion_condition):
            raise ValueError("wanted latent_condition or fusion_condition, came neither")
        return self


GeneratorConfig = Annotated[
    JointFlowConfig | ConcatBaselineConfig | AdversarialConfig | AutoregressiveConfig, Field(discriminator="kind")
]
