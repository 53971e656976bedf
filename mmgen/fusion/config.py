"""Settings of the fusion model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmgen.encoders.config import AnyEncoder
from mmgen.records import Modality
from mmgen.settings import Settings
from mmgen.training.config import InitConfig, PinConfig, TrainConfig


class LabelsConfig(Settings):
    """What a label is, and so which head learns it."""

    #: one of several classes; a set of them; a number
    kind: Literal["classification", "multi_label", "regression"] = "classification"
    #: between the classes of one label, of multi_label
    separator: str = Field("|", min_length=1)


class HeadConfig(Settings):
    """A head for a task of its own on the frozen trunk of a fusion model."""

    kind: Literal["classification", "multi_label", "regression", "sequence_tagging"] = "classification"
    #: where the labels are: `label`, or a column of source.meta
    column: str = "label"
    #: whose words are tagged, of sequence_tagging
    slot: str = "text"
    #: between the classes of one label, of multi_label
    separator: str = Field("|", min_length=1)
    seed: int = 0
    train: TrainConfig = TrainConfig(steps=300, batch_size=128, learning_rate=1e-2, warmup_steps=20)


class AdversarialConfig(Settings):
    """Training on the worst that projected gradient descent finds near the slots' embeddings."""

    #: half the side of the cube searched, in standard deviations of a slot's embeddings
    epsilon: float = Field(0.1, gt=0)
    steps: int = Field(3, ge=1)
    #: length of a step, in the same unit
    rate: float = Field(0.05, gt=0)
    #: of the loss there, beside the loss at the embeddings themselves
    weight: float = Field(1.0, gt=0)


class FusionConfig(Settings):
    """Any subset of slots to one embedding; contrastive between every pair of slots, and a label head."""

    later = frozenset(
        {"init", "features", "rank", "bottlenecks", "depth", "labels", "hide", "adversarial", "pretrain", "tokens"}
    )

    kind: Literal["concat", "gated", "low_rank", "cross_attention"] = "gated"
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
    #: what it learns from: tensors, through encoders of its own, end to end; or cached features of frozen networks,
    #: the codecs' latents or the embeddings of extract.encoders
    features: Literal["tensors", "latents", "embeddings"] = "tensors"
    #: R of low_rank
    rank: int = Field(4, ge=1)
    #: tokens through which the slots of cross_attention meet
    bottlenecks: int = Field(4, ge=1)
    #: blocks of cross_attention
    depth: int = Field(2, ge=1)
    #: slots of cross_attention meet with every token that their encoders tell apart, not with one vector each
    tokens: bool = False
    labels: LabelsConfig = LabelsConfig()
    #: share of the slots that a training sample has which are hidden from it; one always stays
    hide: float = Field(0.0, ge=0, lt=1)
    #: None: no adversarial training
    adversarial: AdversarialConfig | None = None
    #: text encoders first learn from the training texts alone, by naming hidden tokens; None: they do not
    pretrain: TrainConfig | None = None
    train: TrainConfig = TrainConfig(steps=500, batch_size=128, learning_rate=2e-3, warmup_steps=50)
    pin: PinConfig = PinConfig()

    @model_validator(mode="after")
    def _tokens(self) -> FusionConfig:
        if self.tokens and self.kind != "cross_attention":
            raise ValueError(f"tokens: wanted kind cross_attention, {self.kind} fuses one vector a slot")
        return self
