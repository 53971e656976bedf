"""Settings of the one training loop, and when fitted things are made anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from mmgen.settings import Settings

# with what a training runs, not what it makes (law 3)
_CIRCUMSTANCE = ("keep_last", "deterministic", "compile")


class TrainConfig(Settings):
    """A training budget and its optimiser. Budgets are steps (or epochs), never seconds."""

    later = frozenset(
        {"beta1", "validate_steps", "take", "patience", "back_off_steps", "keep_last", "deterministic", "compile"}
    )

    steps: int | None = Field(None, ge=1)
    #: used where `steps` is not given
    epochs: int | None = Field(None, ge=1)
    #: samples of one global batch, over all processes
    batch_size: int = Field(64, ge=1)
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    #: decay of the optimiser's first moment; two players that train together want less than the usual 0.9.
    beta1: float = Field(0.9, ge=0, lt=1)
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
    #: this many steps that are not finite between two readings (25 steps) halve the learning rate, for each such
    #: reading again; it doubles back at each reading without any. None: the rate is left alone
    back_off_steps: int | None = Field(5, ge=1)
    #: steps between checkpoints from which a killed run goes on
    checkpoint_steps: int = Field(500, ge=1)
    #: newest checkpoints that are kept; where the newest is damaged, the one before it is taken
    keep_last: int = Field(2, ge=1)
    #: steps between looks at the validation loss; None: only once, at the end
    validate_steps: int | None = Field(None, ge=1)
    #: the weights that are committed: those of the last step, or of the look with the lowest validation loss
    take: Literal["last", "best"] = "last"
    #: this many looks in a row without a lower validation loss end the training; None: it takes all of its steps
    patience: int | None = Field(None, ge=1)
    #: only kernels whose result does not depend on timing: on a GPU slower, on a CPU all are such
    deterministic: bool = False
    #: `torch.compile` of the loss. On a busy CPU the first step of the joint flow takes minutes (2,500 steps of it take
    #: five), so measure before you turn it on; dropout draws
    #: other numbers
    compile: bool = False

    @model_validator(mode="after")
    def _budget(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("wanted exactly one of steps and epochs")
        if self.batch_size % self.slices:
            raise ValueError(f"batch_size: wanted a multiple of the {self.slices} slices, came {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _looks(self) -> TrainConfig:
        for name, used in (("take", self.take == "best"), ("patience", self.patience is not None)):
            if used and self.validate_steps is None:
                raise ValueError(f"{name}: wanted validate_steps beside it, came none")
        return self


def counted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings, at any depth, without what is circumstance in the `train` among them."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            dropped = _CIRCUMSTANCE if name == "train" else ()
            value = counted({key: each for key, each in value.items() if key not in dropped})
        kept[name] = value
    return kept


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
