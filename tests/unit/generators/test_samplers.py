"""The solvers: their order on fields whose solution is known, the times between which they step, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmgen.errors import ConfigError
from mmgen.generators.samplers import SAMPLERS, State, Velocity, euler, invert, sampler, schedule, slerp

# the order of the error as the steps grow; dpm's last steps but one are h² log h
ORDERS = {"euler": (0.9, 1.1), "heun": (1.85, 2.2), "dpm": (1.6, 2.3)}


def gaussian_flow(mean: float, deviation: float) -> Velocity:
    """E[x_1 - x_0 | x_t] where data are N(mean, deviation²): its solution is x_1 = mean + deviation · x_0."""

    def velocity(x: State, t: float) -> State:
        variance = t * t * deviation**2 + (1 - t) ** 2
        gain = (t * deviation**2 - (1 - t)) / variance
        return {slot: mean + gain * (value - t * mean) for slot, value in x.items()}

    return velocity


def mixture_flow(x: State, t: float) -> State:
    """The same of two equal Gaussians at -1 and 1 with deviation 0.3."""
    means, variance = torch.tensor([-1.0, 1.0], dtype=torch.float64), t * t * 0.09 + (1 - t) ** 2
    away = x["a"][..., None] - t * means
    weights = (-(away**2) / (2 * variance)).softmax(-1)
    return {"a": (weights * (means + (t * 0.09 - (1 - t)) / variance * away)).sum(-1)}


def noise() -> Tensor:
    return torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(3, 3, 1)


def errors(field: Velocity, truth: Tensor, name: str, steps: tuple[int, ...], shift: float = 1.0) -> list[float]:
    found = [SAMPLERS[name](field, {"a": noise()}, schedule(each, shift))["a"] for each in steps]
    return [float((each - truth).abs().mean()) for each in found]


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=15, deadline=None)
@given(mean=st.floats(-2, 2), deviation=st.floats(0.3, 0.8))
def test_on_a_gaussian_every_solver_has_its_order(name: str, mean: float, deviation: float) -> None:
    few, many = errors(gaussian_flow(mean, deviation), mean + deviation * noise(), name, (200, 800))
    least, most = ORDERS[name]
    assert least < math.log(few / many) / math.log(4) < most


@pytest.mark.parametrize("name", SAMPLERS)
def test_on_a_curve_that_is_no_flow_too(name: str) -> None:
    def growth(x: State, t: float) -> State:
        return {"a": 2 * t * x["a"]}

    few, many = errors(growth, noise() * math.e, name, (100, 400))
    # the logarithm weighs more where x_1 is far from constant
    assert {"euler": 0.9, "heun": 1.85, "dpm": 1.4}[name] < math.log(few / many) / math.log(4)


@pytest.mark.parametrize("solver", SAMPLERS.values())
def test_a_straight_path_is_exact_in_one_step(solver: Callable[..., State]) -> None:
    x_0, x_1 = torch.zeros(2, 1, 1), torch.tensor([[[3.0]], [[-1.0]]])
    for steps in (1, 2, 5):
        made = solver(lambda x, t: {"a": x_1 - x_0}, {"a": x_0}, schedule(steps))
        torch.testing.assert_close(made["a"], x_1)


def test_at_a_usual_number_of_steps_the_second_order_ones_are_nearer() -> None:
    truth = SAMPLERS["heun"](mixture_flow, {"a": noise()}, schedule(3000))["a"]
    found = {name: errors(mixture_flow, truth, name, (20,))[0] for name in SAMPLERS}
    assert found["heun"] < 0.3 * found["euler"]
    # at half of heun's evaluations
    assert found["dpm"] < 0.3 * found["euler"]


def test_evaluations_are_as_many_as_said() -> None:
    asked: list[float] = []

    def count(x: State, t: float) -> State:
        asked.append(t)
        return x

    for name, wanted in (("euler", 7), ("dpm", 7), ("heun", 13)):
        asked.clear()
        SAMPLERS[name](count, {"a": noise()}, schedule(7))
        assert (len(asked), max(asked) < 1) == (wanted, True)


class TestSchedule:
    def test_times_rise_from_the_start_to_one(self) -> None:
        assert schedule(4) == [0, 0.25, 0.5, 0.75, 1]
        for shift in (0.3, 1.0, 3.0):
            for start in (0.0, 0.4):
                times = schedule(6, shift, start)
                assert times[0] == pytest.approx(start)
                assert times[-1] == 1
                assert times == sorted(set(times))

    def test_a_shift_puts_the_steps_near_the_noise(self) -> None:
        # eq. 23 of arXiv:2403.03206 at their t = 1/2: 3 / (1 + 2 / 2) / 2 = 3/4 noise
        assert schedule(2, 3.0)[1] == pytest.approx(0.25)
        assert sum(t < 0.5 for t in schedule(20, 3.0)) > sum(t < 0.5 for t in schedule(20)) > 8

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [((0,), "steps: wanted at least 1, came 0"), ((3, 0.0), "shift"), ((3, float("nan")), "shift"),
         ((3, 1.0, 1.0), "start"), ((3, 1.0, -0.1), "start")],
    )  # fmt: skip
    def test_what_is_no_schedule_is_refused(self, arguments: tuple[float, ...], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            schedule(*arguments)  # type: ignore[arg-type]

    def test_an_unknown_sampler_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match="unknown sampler 'huen': did you mean 'heun'"):
            sampler("huen")


def test_the_way_back_undoes_eulers_steps_however_few() -> None:
    for steps in (4, 20):
        times = schedule(steps)
        made = euler(mixture_flow, {"a": noise()}, times)
        torch.testing.assert_close(invert(mixture_flow, made, times, rounds=60)["a"], noise(), atol=2e-3, rtol=0)
        again = euler(mixture_flow, invert(mixture_flow, made, times), times)
        torch.testing.assert_close(again["a"], made["a"], atol=1e-2, rtol=0)


class TestSlerp:
    @given(share=st.floats(0, 1), seed=st.integers(0, 50))
    def test_it_keeps_the_length_of_noise_and_its_ends(self, share: float, seed: int) -> None:
        one, other = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        wanted = (1 - share) * one.norm(dim=1) + share * other.norm(dim=1)
        torch.testing.assert_close(slerp(one, other, share).norm(dim=1), wanted)
        torch.testing.assert_close(slerp(one, other, 0.0), one)
        torch.testing.assert_close(slerp(one, other, 1.0), other)

    def test_what_points_the_same_or_the_opposite_way_goes_along_the_line(self) -> None:
        one, other = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
        assert torch.equal(slerp(one, other, 0.25), torch.tensor([[1.5, 0.0], [0.5, 0.0]]))
