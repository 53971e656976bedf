"""Settings of the one training loop, and when fitted things are made anew."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmgen.settings import Settings


class TrainConfig(Settings):
    """A training budget and its optimiser. Budgets are steps (or epochs), never seconds."""

    steps: int | None = Field(None, ge=1)
    #: used where `steps` is not given
    epochs: int | None = Field(None, ge=1)
    #: samples of one global batch, over all processes
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    #: linear warm-up, then the schedule
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    #: None: no moving average of the weights
    ema_decay: float | None = Field(None, gt=0, lt=1)
    max_grad_norm: float | None = Field(1.0, gt=0)
    #: parts of a global batch that are worked on one after another (or by one process each), each with noise of its
    #: own: any number of processes that divides it takes the same steps
    slices: int = Field(1, ge=1)
    #: this many steps in a row whose gradients are not finite stop the training; fewer are skipped and counted
    max_bad_steps: int = Field(20, ge=1)
    #: steps between checkpoints from which a killed run goes on
    checkpoint_steps: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _budget(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("wanted exactly one of steps and epochs")
        if self.batch_size % self.slices:
            raise ValueError(f"batch_size: wanted a multiple of the {self.slices} slices, came {self.batch_size}")
        return self


#: trunk: what is neither adapter nor head; heads: projections of encoders, and what names classes
InitWhat = Literal["all", "trunk", "adapters", "heads"]


class InitConfig(Settings):
    """An earlier model that training starts from; it is an input of the step."""

    #: [kind:]name[@version|@alias]; of the model's own name only by version
    ref: str
    what: InitWhat = "all"


class PinConfig(Settings):
    """When a fitted thing is made anew for new data (law 15). Its own configuration changing always does."""

    #: score on new validation data under which it is refitted (reconstruction, or accuracy); None: not looked at
    refit_below: float | None = Field(None, ge=0, le=1)
    #: share of training rows that are new since it was fitted, from which on it is refitted; None: never for growth
    refit_growth: float | None = Field(0.5, gt=0)
