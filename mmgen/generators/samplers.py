"""Solvers of the flow's ordinary differential equation dx/dt = v(x, t) from t = 0 (noise) to t = 1 (data)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from mmgen.errors import ConfigError, unknown_name

State = dict[str, Tensor]
# (state, t) → velocity of every slot of the state
Velocity = Callable[[State, float], State]
Sampler = Callable[[Velocity, State, int], State]


def _ahead(x: State, dx_t: Mapping[str, Tensor], dt: float) -> State:
    return {slot: x_BTD + dt * dx_t[slot] for slot, x_BTD in x.items()}


def _check(steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"steps: wanted at least 1, came {steps}")


def euler(velocity: Velocity, x_0: State, steps: int) -> State:
    """Explicit Euler in `steps` equal steps; one evaluation each."""
    _check(steps)
    x = x_0
    for step in range(steps):
        x = _ahead(x, velocity(x, step / steps), 1 / steps)
    return x


def heun(velocity: Velocity, x_0: State, steps: int) -> State:
    """Heun's second-order method in `steps` equal steps; two evaluations each, one in the last.

    The last step is Euler's, because the field is least known at t = 1 (Karras et al. 2022, arXiv:2206.00364).
    """
    _check(steps)
    x = x_0
    for step in range(steps):
        t, dt = step / steps, 1 / steps
        here = velocity(x, t)
        guess = _ahead(x, here, dt)
        if step + 1 < steps:
            there = velocity(guess, t + dt)
            guess = _ahead(x, {slot: (here[slot] + there[slot]) / 2 for slot in x}, dt)
        x = guess
    return x


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun}


def sampler(name: str) -> Sampler:
    """The solver of this name. Raises ConfigError with the nearest known one."""
    if name not in SAMPLERS:
        raise ConfigError(unknown_name("sampler", name, SAMPLERS))
    return SAMPLERS[name]
