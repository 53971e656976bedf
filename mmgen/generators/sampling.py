"""How a generator draws, and by what else it is led: handed on unread by commands and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from mmgen.batches import Batch
from mmgen.errors import ConfigError, unknown_name


@dataclass(frozen=True, slots=True)
class Sampling:
    """steps: of the solver. guidance: 1 follows the model; more moves away from what a slot would be if made alone.

    A generator reads what concerns it: one without a solver has no steps.
    """

    steps: int
    guidance: float
    #: (given, made) → the guidance by which that one given slot pulls at that made slot, in place of `guidance`
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    #: solver by name; None: the generator's own
    sampler: str | None = None
    #: where the steps lie: 1 evenly, more closer together near the noise
    shift: float = 1.0
    #: of texts that are written token by token; None: the generator's own
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    beams: int | None = None
    #: samples made for each one that is kept (see `agreement`)
    candidates: int = 1

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("temperature", self.temperature is None or self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "more than 0 and at most 1"),
            ("beams", self.beams is None or self.beams >= 1, "1 or more"),
            ("candidates", self.candidates >= 1, "1 or more"),
        ):
            if not good:
                raise ConfigError(f"{name}: wanted {wanted}, came {getattr(self, name)}")

    def filled(self, defaults: Sampling) -> Sampling:
        """With what `defaults` says of how texts are written where this says nothing."""
        names = ("temperature", "top_k", "top_p", "beams")
        return replace(self, **{name: getattr(defaults, name) for name in names if getattr(self, name) is None})


def made_together(to: Sequence[str], slots: Sequence[str]) -> tuple[str, ...]:
    """The slots `to` in the order of `slots`. Raises ConfigError for an unknown or repeated one, or none at all."""
    if not to or len(set(to)) < len(to):
        raise ConfigError(f"to: wanted slots, each once, came {', '.join(to) or 'none'}")
    for slot in to:
        if slot not in slots:
            raise ConfigError(unknown_name("slot", slot, slots))
    return tuple(slot for slot in slots if slot in to)


@dataclass(frozen=True)
class Steering:
    """What leads a flow beside what is given; batches and values as the generator reads them, a row for each given row.

    mix: (weight, condition): the flow follows the weighted mean of what each of these conditions alone asks for (the
    weights need not add up to 1); what is given belongs to each of them.
    negative: what guidance moves away from, in place of what a slot would be if made alone.
    start: made slot → what is varied: noise is laid over it as it is at time 1 - strength of the path, and the flow
    goes on from there. With strength 1 nothing of it is left.
    keep: made slot → bool (B, T), tokens of `start` that stay as they are while the others are made to fit
    (in-painting), each step `resamplings` times.
    """

    mix: tuple[tuple[float, Batch], ...] = ()
    negative: Batch | None = None
    start: Mapping[str, Tensor] = field(default_factory=dict)
    strength: float = 1.0
    keep: Mapping[str, Tensor] = field(default_factory=dict)
    resamplings: int = 4

    def take(self, places: Tensor) -> Steering:
        """The same for the given rows at these places (N,), which may repeat."""
        return replace(
            self,
            mix=tuple((weight, batch.take(places)) for weight, batch in self.mix),
            negative=None if self.negative is None else self.negative.take(places),
            start={slot: value[places] for slot, value in self.start.items()},
            keep={slot: kept[places] for slot, kept in self.keep.items()},
        )
