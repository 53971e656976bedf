"""Solvers of the flow's ordinary differential equation dx/dt = v(x, t) from t = 0 (noise) to t = 1 (data)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from mmgen.errors import ConfigError, unknown_name

State = dict[str, Tensor]
# (state, t) → velocity of every slot of the state
Velocity = Callable[[State, float], State]
# (velocity, state at the first time, ascending times) → state at the last
Sampler = Callable[[Velocity, State, Sequence[float]], State]


def schedule(steps: int, shift: float = 1.0, start: float = 0.0) -> list[float]:
    """The steps + 1 times from `start` to 1 between which a solver steps.

    shift: 1 spaces them evenly; more puts them closer together near the noise (t = 0), less near the data (Esser et
    al. 2024, arXiv:2403.03206, eq. 23, with their time running the other way). Raises ConfigError for steps below 1,
    shift not above 0, start outside [0, 1).
    """
    if steps < 1:
        raise ConfigError(f"steps: wanted at least 1, came {steps}")
    if not 0 < shift < math.inf:
        raise ConfigError(f"shift: wanted a number above 0, came {shift}")
    if not 0 <= start < 1:
        raise ConfigError(f"start: wanted a time of at least 0 and below 1, came {start}")
    first = shift * start / (1 - start + shift * start)
    even = [first + (1 - first) * step / steps for step in range(steps + 1)]
    # not through the formula, whose rounding would move the usual times
    return even if shift == 1 else [u / (u + shift * (1 - u)) for u in even]


def ahead(x: State, dx_t: Mapping[str, Tensor], dt: float) -> State:
    """x + dt · dx_t, slot by slot."""
    return {slot: x_BTD + dt * dx_t[slot] for slot, x_BTD in x.items()}


def euler(velocity: Velocity, x: State, times: Sequence[float]) -> State:
    """Explicit Euler; one evaluation each step."""
    for s, t in pairwise(times):
        x = ahead(x, velocity(x, s), t - s)
    return x


def heun(velocity: Velocity, x: State, times: Sequence[float]) -> State:
    """Heun's second-order method; two evaluations each step, one in a step that ends at t = 1.

    That step is Euler's, because the field is least known at t = 1 (Karras et al. 2022, arXiv:2206.00364).
    """
    for s, t in pairwise(times):
        here = velocity(x, s)
        guess = ahead(x, here, t - s)
        if t < 1:
            there = velocity(guess, t)
            guess = ahead(x, {slot: (here[slot] + there[slot]) / 2 for slot in x}, t - s)
        x = guess
    return x


def dpm(velocity: Velocity, x: State, times: Sequence[float]) -> State:
    """DPM-Solver++(2M): second-order multistep in the x_1-prediction form; one evaluation each step.

    Lu et al. 2022, arXiv:2211.01095, for x_t = (1 - t) x_0 + t x_1. What the field points at, x_1 = x_t + (1 - t) v,
    changes slowly along a path; between two steps the equation is solved exactly for an x_1 half a step ahead of its
    last two values, on a line in lambda = log(t / (1 - t)). Lambda is infinite at t = 0 and t = 1, so a step that
    begins or ends there, and the one after t = 0, is of first order: Euler's.
    """
    last: tuple[float, State] | None = None
    for s, t in pairwise(times):
        dx_s = velocity(x, s)
        x_1 = ahead(x, dx_s, 1 - s)
        x = ahead(x, dx_s, t - s)
        if last is not None and last[0] > 0 and t < 1:
            before, x_1_before = last
            ratio = (_lambda(t) - _lambda(s)) / (_lambda(s) - _lambda(before))
            turn = {slot: x_1[slot] - x_1_before[slot] for slot in x}
            x = ahead(x, turn, (t - s) / (1 - s) * ratio / 2)
        last = s, x_1
    return x


def _lambda(t: float) -> float:
    """Half the logarithm of the signal-to-noise ratio of x_t."""
    return math.log(t / (1 - t))


def invert(velocity: Velocity, x_1: State, times: Sequence[float], rounds: int = 8) -> State:
    """The x_0 from which `euler` over the same (ascending) times ends at x_1.

    Each of its steps is undone, not the equation solved backwards: x_s = x_t - (t - s) v(x_s, s) by fixed-point
    iteration in `rounds` rounds (Pan et al. 2023, arXiv:2309.04907), which converges where a step moves two neighbours
    less than they are apart.
    """
    x = x_1
    for s, t in reversed(list(pairwise(times))):
        guess = x
        for _ in range(rounds):
            guess = ahead(x, velocity(guess, s), s - t)
        x = guess
    return x


def slerp(one_ND: Tensor, other_ND: Tensor, share: float) -> Tensor:
    """Each row `share` of the way from one to the other, in [0, 1], along the arc between them.

    Unlike a straight line it stays as far from the origin as noise is (White 2016, arXiv:1609.04468). Lengths go over
    in a straight line; where two rows point the same or the opposite way so does all.
    """
    lengths = [x_ND.norm(dim=1, keepdim=True) for x_ND in (one_ND, other_ND)]
    one, other = (x / length.clamp_min(1e-12) for x, length in zip((one_ND, other_ND), lengths, strict=True))
    angle_N1 = (one * other).sum(1, keepdim=True).clamp(-1, 1).arccos()
    sine_N1 = angle_N1.sin()
    arc = (((1 - share) * angle_N1).sin() * one + (share * angle_N1).sin() * other) / sine_N1.clamp_min(1e-12)
    line = (1 - share) * one_ND + share * other_ND
    return torch.where(sine_N1 < 1e-4, line, arc * ((1 - share) * lengths[0] + share * lengths[1]))


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpm": dpm}


def sampler(name: str) -> Sampler:
    """The solver of this name. Raises ConfigError with the nearest known one."""
    if name not in SAMPLERS:
        raise ConfigError(unknown_name("sampler", name, SAMPLERS))
    return SAMPLERS[name]
