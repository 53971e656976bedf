"""The lowest validation loss of a training so far, and the weights that had it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Best:
    """loss, step: of the best look so far, infinite before the first. since: looks that were no better after it."""

    loss: float = math.inf
    step: int = 0
    since: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def look(self, step: int, loss: float, module: nn.Module) -> None:
        """Take a copy of the module's weights if `loss` is lower than all before. One that is not a number is not."""
        if loss < self.loss:
            self.loss, self.step, self.since = loss, step, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        else:
            self.since += 1

    def counters(self) -> dict[str, Any]:
        """For a checkpoint, beside the weights; an infinite loss is None, which JSON can say."""
        return {"loss": None if math.isinf(self.loss) else self.loss, "step": self.step, "since": self.since}

    @classmethod
    def restored(cls, counters: Mapping[str, Any], weights: dict[str, Tensor]) -> Best:
        """From what `counters` gave."""
        loss = math.inf if counters["loss"] is None else counters["loss"]
        return cls(loss, counters["step"], counters["since"], weights)
