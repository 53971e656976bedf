"""Settings of `mmgen tune`: which settings are searched, where, and by what they are judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmgen.settings import Settings

# the networks that train from cached features; the first word of a setting that may be searched
ROOTS = {"generator": "train-generator", "fusion": "train-fusion"}


class Dimension(Settings):
    """Values of one setting: from `low` to `high` (whole numbers if both are), or one of `choices`."""

    low: int | float | None = None
    high: int | float | None = None
    #: search by factors, not by differences; for what spans orders of magnitude
    log: bool = False
    choices: tuple[str | int | float | bool | None, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        bounds = (self.low, self.high)
        if self.choices:
            if bounds != (None, None) or self.log:
                raise ValueError("wanted choices alone, or low and high, came both")
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"wanted low < high, or choices, came {self.low} and {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"log: wanted low above 0, came {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class TuneConfig(Settings):
    """A search over settings of the generator, or of the fusion, with all before it left as it is."""

    #: trials that are to be finished, those of earlier commands included
    trials: int = Field(20, ge=1)
    #: path of a setting → its values, e.g. generator.train.learning_rate: {low: 1e-4, high: 1e-2, log: true};
    #: none: learning rate, weight decay and (where there is one) dropout of the generator
    space: dict[str, Dimension] = Field({})
    #: which of the network's losses is looked at on the validation rows
    metric: str = "loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    #: steps of a trial; None: the budget that is configured
    steps: int | None = Field(None, ge=1)
    #: looks at the validation rows in a trial that ends, evenly spaced
    looks: int = Field(10, ge=1)
    #: which trials end early: those worse than the median of the others at the same step, or by Hyperband
    pruner: Literal["median", "hyperband", "none"] = "median"

    @model_validator(mode="after")
    def _one_network(self) -> TuneConfig:
        roots = sorted({path.split(".")[0] for path in self.space})
        if not set(roots) <= ROOTS.keys():
            raise ValueError(f"space: wanted settings of generator or of fusion, came {', '.join(roots)}")
        if len(roots) > 1:
            raise ValueError("space: wanted settings of one network, came generator and fusion: their losses differ")
        return self

    @property
    def root(self) -> str:
        """The network that is searched for."""
        return next(iter(self.space)).split(".")[0] if self.space else "generator"
