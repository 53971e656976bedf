"""How a generator draws: handed on unread by commands and scores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """steps: of the solver. guidance: 1 follows the model; more moves away from what a slot would be if made alone.

    A generator reads what concerns it: one without a solver has no steps.
    """

    steps: int
    guidance: float
