"""What a training says of itself: sums that stay on the device until they are read, and what was read of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Curves:
    """What was read during a training: one entry each per reading (means over the steps since the one before).

    looks, validation: steps at which the validation loss was looked at, and what it was.
    """

    step: list[int] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    looks: list[int] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)

    @property
    def loss(self) -> list[float]:
        return self.parts.get("loss", [])


@dataclass(frozen=True)
class Reading:
    """Of the steps since the last one. bad: how many were not finite; streak: of these, in a row up to now.

    means: of the others, by name, over those that had it; norm: of their gradients.
    """

    bad: int
    streak: int
    means: dict[str, float]
    norm: float


class Readings:
    """Sums over steps, on the device. A step that was not finite adds to nothing but the count of such steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._one, self._nothing = torch.ones((), device=device), torch.zeros((), device=device)
        self._streak = torch.zeros((), device=device)
        # by names of losses, which need not be the same at all steps: their sums, then norm, then count of good steps
        self._window: dict[tuple[str, ...], Tensor] = {}
        # loss, count of good steps
        self._epoch = torch.zeros(2, device=device)
        self._steps = 0

    def note(self, names: Sequence[str], losses_N: Tensor, norm: Tensor, bad: Tensor) -> None:
        """Add a step: losses by name, one of them `loss`. bad: 1.0 where something was not finite, else 0.0."""
        self._streak = (self._streak + bad) * bad
        seen = torch.where(bad > 0, self._nothing, torch.cat([losses_N, torch.stack([norm, self._one])]))
        key = tuple(names)
        self._window[key] = self._window[key] + seen if key in self._window else seen
        at = key.index("loss")
        self._epoch = self._epoch + torch.stack([seen[at], seen[-1]])
        self._steps += 1

    def read(self) -> Reading:
        """Look at what was noted since the last time. This is where the host waits for the device."""
        streak, *numbers = torch.cat([self._streak[None], *self._window.values()]).tolist()
        sums: dict[str, tuple[float, float]] = {}
        norm, good = 0.0, 0.0
        for names in self._window:
            *losses, norm_sum, count = numbers[: len(names) + 2]
            del numbers[: len(names) + 2]
            norm, good = norm + norm_sum, good + count
            for name, value in zip(names, losses, strict=True):
                total, of = sums.get(name, (0.0, 0.0))
                sums[name] = total + value, of + count
        bad = self._steps - int(good)
        self._window, self._steps = {}, 0
        means = {name: total / max(1.0, of) for name, (total, of) in sums.items()}
        return Reading(bad, int(streak), means, norm / max(1.0, good))

    def end_epoch(self) -> float:
        """Mean loss of the steps since the last time."""
        total, good = self._epoch.tolist()
        self._epoch = torch.zeros_like(self._epoch)
        return float(total / max(1.0, good))

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name, for a checkpoint."""
        window = {f"window/{json.dumps(names)}": sums for names, sums in self._window.items()}
        return {"streak": self._streak, "epoch": self._epoch, "steps": torch.tensor(self._steps), **window}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._streak, self._epoch = state["streak"].to(self._device), state["epoch"].to(self._device)
        self._steps = int(state["steps"])
        self._window = {
            tuple(json.loads(name.removeprefix("window/"))): sums.to(self._device)
            for name, sums in state.items() if name.startswith("window/")
        }  # fmt: skip
