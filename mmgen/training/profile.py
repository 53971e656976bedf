"""Where the time of a training goes: seconds of each phase, for `--profile`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

PHASES = ("loader", "forward", "backward", "exchange", "optimizer", "host", "validation", "checkpoint")


class Clock:
    """Counts for nothing: what stands in where no profile is wanted."""

    def to(self, phase: str) -> None:
        """From here on time belongs to `phase`, one of PHASES."""


class Stopwatch(Clock):
    """Seconds by phase. A GPU is waited for at every change of phase, which slows it and makes the figures true."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._device, self._phase, self._since = device, "host", time.perf_counter()

    def to(self, phase: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def found(self, steps: int) -> dict[str, Any]:
        """{"steps", "seconds", "phases": {phase: seconds}}, of this process since its first step."""
        self.to(self._phase)
        phases = {phase: round(seconds, 4) for phase, seconds in self.seconds.items() if seconds > 0}
        return {"steps": steps, "seconds": round(sum(self.seconds.values()), 4), "phases": phases}


def shown(what: str, found: Mapping[str, Any]) -> str:
    """A small table of what `Stopwatch.found` gave: seconds, share, milliseconds a step."""
    total, steps = found["seconds"], max(1, found["steps"])
    lines = [f"{what}: {found['steps']} steps in {total:.1f} s"]
    for phase, seconds in found["phases"].items():
        share = seconds / total if total else 0.0
        lines.append(f"  {phase:<11}{seconds:9.2f} s {share:6.1%} {seconds / steps * 1e3:9.2f} ms a step")
    return "\n".join(lines)
