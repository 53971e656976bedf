"""Sampling from a joint flow: guidance, mixed and negative conditions, variation, in-painting, interpolation.

All of it is the same velocity under other roles, so none of it needs a training of its own.

Shape suffixes: B batch, S slots, T latent tokens, D latent width, E width of a fusion embedding, N numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mmgen.errors import ConfigError
from mmgen.generators.roles import ABSENT, GIVEN, TARGET
from mmgen.generators.samplers import Sampler, State, Velocity, ahead, euler, invert, sampler, schedule, slerp
from mmgen.generators.sampling import Sampling, Steering, made_together

# (x_t, t_BS, roles_BS, embeddings) → dx_t of every slot
Network = Callable[[State, Tensor, Tensor, State], State]


@dataclass(frozen=True)
class Condition:
    """latents: slot → (B, T, D), zeros where masked. present_BS: bool. embeddings: slot → (B, E), zeros for none."""

    latents: State
    present_BS: Tensor
    embeddings: State

    def only(self, slots: Sequence[str], order: Sequence[str]) -> Condition:
        """The same rows with nothing but these of the slots; order: of S."""
        chosen_S = torch.tensor([slot in slots for slot in order], device=self.present_BS.device)
        latents = {slot: z_BTD for slot, z_BTD in self.latents.items() if slot in slots}
        embeddings = {slot: e_BE for slot, e_BE in self.embeddings.items() if slot in slots}
        return Condition(latents, self.present_BS & chosen_S, embeddings)


@dataclass(frozen=True)
class FlowSampling:
    """Draws from a joint flow. shapes: slot → (T, D), in the order of S. solver: the name of its own sampler."""

    network: Network
    shapes: Mapping[str, tuple[int, int]]
    solver: str

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order."""
        return tuple(self.shapes)

    def sample(
        self,
        given: Condition,
        to: Sequence[str],
        how: Sampling,
        rng: torch.Generator | None = None,
        *,
        steering: Steering | None = None,
        mix: Sequence[tuple[float, Condition]] = (),
        negative: Condition | None = None,
    ) -> State:
        """Latents (B, T, D) of the slots `to`, made together from what `given` holds of the others.

        rng: noise is drawn row by row, so a row's sample does not depend on how many follow it.
        steering: its start, strength, keep and resamplings. mix, negative: its conditions, read.

        Raises ConfigError for an unknown or repeated slot, none at all, steps below 1, a strength outside (0, 1],
        weights that are no weights, a start that some made slot lacks.
        """
        led = steering or Steering()
        targets = made_together(to, self.slots)
        _check(led, targets, mix)
        branches = [(weight, self._without(condition, targets)) for weight, condition in mix]
        away = None if negative is None else self._without(negative, targets)
        rows = len(given.present_BS)
        field = self._field(self._without(given, targets), targets, how, branches, away)
        times = schedule(how.steps, how.shift, 1 - led.strength)
        solve = sampler(how.sampler or self.solver)
        again = led.resamplings if led.keep else 1
        noise = self._noise(targets, rows, rng, given.present_BS.device, 1 + (again - 1) * (how.steps - 1))
        if led.keep:
            return in_paint(field, solve, noise, dict(led.start), led.keep, times, again)
        x = next(noise)
        return solve(field, between(x, dict(led.start), times[0]) if led.start else x, times)

    def interpolate(self, one: State, other: State, shares: Sequence[float], given: Condition, how: Sampling) -> State:
        """Latents (N, T, D) on the way from one to the other: slot → (1, T, D), at these N shares of it in [0, 1].

        Both are led back to the noise that Euler's solver makes them from (`invert`), the noise is mixed along the
        arc between them (`slerp`), and the same solver makes latents of it. given: one row, of the other slots.
        how: its steps, shift and guidance; nothing is drawn.
        """
        targets, times = made_together(tuple(one), self.slots), schedule(how.steps, how.shift)
        given = self._without(given, targets)
        sizes = [math.prod(self.shapes[slot]) for slot in targets]
        ends = {slot: torch.cat([one[slot], other[slot]]) for slot in targets}
        x_0 = invert(self._field(_repeat(given, 2), targets, how), ends, times)
        first_1N, last_1N = torch.cat([x_0[slot].flatten(1) for slot in targets], dim=1).chunk(2)
        mixed = torch.cat([slerp(first_1N, last_1N, share) for share in shares])
        parts = zip(targets, torch.split(mixed, sizes, dim=1), strict=True)
        x = {slot: part.reshape(-1, *self.shapes[slot]) for slot, part in parts}
        return euler(self._field(_repeat(given, len(shares)), targets, how), x, times)

    # ------------------------------------------------------------ the guided field

    def _field(
        self,
        given: Condition,
        targets: Sequence[str],
        how: Sampling,
        mix: Sequence[tuple[float, Condition]] = (),
        negative: Condition | None = None,
    ) -> Velocity:
        branches = list(mix) or [(1.0, given)]
        total = sum(weight for weight, _ in branches)

        def field(x: State, t: float) -> State:
            found = [(weight / total, self.guided(x, t, each, how, negative)) for weight, each in branches]
            if len(found) == 1:
                return found[0][1]
            return {slot: torch.stack([weight * v[slot] for weight, v in found]).sum(0) for slot in x}

        return field

    def guided(self, x: State, t: float, given: Condition, how: Sampling, negative: Condition | None = None) -> State:
        """Velocity of the slots of x, which are made together at time t.

        With `together` the velocity under all that is given, `base` that of a slot made alone (or under `negative`),
        s the guidance, and `pull` that of a slot made with one given slot g alone, whose pair has the weight w:

            v = base + s (together - base) + Σ_g (w_g - s) (pull_g - base)

        Without pairs this is classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) from the network's own
        unconditional branch, which also draws slots that are made together towards each other; with s = 1 it is
        OmniFlow's guidance of input-output pairs (Li et al. 2024, arXiv:2412.01169); with one given slot w takes the
        place of s. g may be made together with the slot. In rows without g its pair counts nothing.
        """
        together = self._velocity(x, t, given)
        asked = {slot: [pair for pair in how.pairs if pair[1] == slot] for slot in x}
        unled = len(x) == 1 and not bool(given.present_BS.any()) and negative is None
        found = {}
        for slot in x:
            if not asked[slot] and (how.guidance == 1.0 or unled):
                found[slot] = together[slot]
                continue
            base_BTD = self._velocity({slot: x[slot]}, t, negative or given.only((), self.slots))[slot]
            v_BTD = base_BTD + how.guidance * (together[slot] - base_BTD)
            for pair in asked[slot]:
                pull_BTD = self._pull(x, t, given, pair) - base_BTD
                v_BTD = v_BTD + (how.pairs[pair] - how.guidance) * self._has(x, given, pair[0]) * pull_BTD
            found[slot] = v_BTD
        return found

    def _pull(self, x: State, t: float, given: Condition, pair: tuple[str, str]) -> Tensor:
        """Velocity of a made slot with one other slot alone, given or made beside it."""
        other, slot = pair
        made = {name: x_BTD for name, x_BTD in x.items() if name in pair}
        return self._velocity(made, t, given.only((other,), self.slots))[slot]

    def _has(self, x: State, given: Condition, slot: str) -> Tensor:
        """(B, 1, 1) float: rows in which a slot is given or made."""
        present_B = given.present_BS[:, self.slots.index(slot)] | (slot in x)
        return present_B[:, None, None].float()

    def _velocity(self, x: State, t: float, given: Condition) -> State:
        roles_BS = torch.where(given.present_BS, GIVEN, ABSENT)
        for slot in x:
            roles_BS[:, self.slots.index(slot)] = TARGET
        t_BS = (roles_BS == GIVEN).float() + t * (roles_BS == TARGET).float()
        return self.network({**given.latents, **x}, t_BS, roles_BS, given.embeddings)

    # ------------------------------------------------------------ what it starts from

    def _without(self, condition: Condition, targets: Sequence[str]) -> Condition:
        return condition.only([slot for slot in self.slots if slot not in targets], self.slots)

    def _noise(
        self, targets: Sequence[str], count: int, rng: torch.Generator | None, device: torch.device, times: int = 1
    ) -> Iterator[State]:
        """`times` states of noise; all that a row needs is drawn before the next row's."""
        shapes = [self.shapes[slot] for slot in targets]
        sizes = [math.prod(shape) for shape in shapes]
        where = rng.device if rng else device
        rows = [torch.randn((times, sum(sizes)), generator=rng, device=where) for _ in range(count)]
        flat_RBN = torch.stack(rows, dim=1).to(device) if rows else torch.zeros(times, 0, sum(sizes), device=device)
        for flat_BN in flat_RBN:
            parts = zip(targets, torch.split(flat_BN, sizes, dim=1), shapes, strict=True)
            yield {slot: part.reshape(count, *shape) for slot, part, shape in parts}


def between(x_0: State, x_1: State, t: float) -> State:
    """x_t = (1 - t) x_0 + t x_1 of every slot."""
    return {slot: (1 - t) * x_BTD + t * x_1[slot] for slot, x_BTD in x_0.items()}


def in_paint(
    field: Velocity, solve: Sampler, noise: Iterator[State], known: State, keep: Mapping[str, Tensor],
    times: Sequence[float], resamplings: int,
) -> State:  # fmt: skip
    """Latents whose tokens `keep` (bool (B, T) by slot) are those of `known`, and whose others were made to fit.

    RePaint (Lugmayr et al. 2022, arXiv:2201.09865): at every time the kept tokens stand where the straight path from
    their noise to their data has them, and each step is taken `resamplings` times, going back by the right amount of
    fresh noise in between, so that what is made has time to meet what is kept. A solver's memory does not outlive a
    step here, so that `dpm` steps as `euler`. noise: its first state begins the path, each further one is one way back.
    """
    x_0 = next(noise)

    def held(x: State, t: float) -> State:
        path = between(x_0, known, t)
        return {slot: torch.where(keep[slot][..., None], path[slot], z) if slot in keep else z for slot, z in x.items()}

    x = held(between(x_0, known, times[0]), times[0])
    for s, t in pairwise(times):
        for left in reversed(range(resamplings if t < 1 else 1)):
            x = held(solve(field, x, (s, t)), t)
            if left:
                x = held(_back(x, t, s, next(noise)), s)
    return x


def _back(x: State, t: float, s: float, noise: State) -> State:
    """x_s of x_t, s < t, by the flow's own noising: signal and noise of x_s have the deviations of its time."""
    fresh = math.sqrt(max(0.0, (1 - s) ** 2 - (s / t * (1 - t)) ** 2))
    return ahead({slot: s / t * x_BTD for slot, x_BTD in x.items()}, noise, fresh)


def _repeat(condition: Condition, count: int) -> Condition:
    """One row `count` times."""

    def each(state: State) -> State:
        return {slot: value.expand(count, *value.shape[1:]) for slot, value in state.items()}

    return Condition(each(condition.latents), condition.present_BS.expand(count, -1), each(condition.embeddings))


def _check(led: Steering, targets: Sequence[str], mix: Sequence[tuple[float, Condition]]) -> None:
    if not 0 < led.strength <= 1:
        raise ConfigError(f"strength: wanted more than 0 and at most 1, came {led.strength}")
    if led.resamplings < 1:
        raise ConfigError(f"resamplings: wanted at least 1, came {led.resamplings}")
    if mix and not (all(weight >= 0 for weight, _ in mix) and math.isfinite(sum(w for w, _ in mix)) and
                    sum(weight for weight, _ in mix) > 0):  # fmt: skip
        raise ConfigError(f"mix: wanted weights of at least 0 that are not all 0, came {[weight for weight, _ in mix]}")
    if (led.strength < 1 or led.keep) and (missing := [slot for slot in targets if slot not in led.start]):
        raise ConfigError(f"start: wanted a start of every slot that is made, '{missing[0]}' has none")
