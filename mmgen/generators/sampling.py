"""How a generator draws: handed on unread by commands and scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmgen.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sampling:
    """steps: of the solver. guidance: 1 follows the model; more moves away from what a slot would be if made alone.

    Of texts that are written token by token (None: as the generator's own settings say):
    temperature: 0 is the likeliest each time, 1 the model's own probabilities. top_k, top_p: draw only from so many of
    the likeliest, or from the fewest that have this probability together. beams: more than 1 searches for the likeliest
    text instead of drawing one.

    A generator reads what concerns it: one without a solver has no steps. Raises ConfigError for what is out of range.
    """

    steps: int
    guidance: float
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    beams: int | None = None

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", self.temperature is None or self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("beams", self.beams is None or self.beams >= 1, "1 or more"),
        ):
            if not good:
                raise ConfigError(f"{name}: wanted {wanted}, came {getattr(self, name)}")

    def filled(self, defaults: Sampling) -> Sampling:
        """With what `defaults` says of how texts are written where this says nothing."""
        names = ("temperature", "top_k", "top_p", "beams")
        return replace(self, **{name: getattr(defaults, name) for name in names if getattr(self, name) is None})
