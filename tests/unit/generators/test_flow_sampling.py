"""Sampling from the joint flow: guidance by pairs, mixed and negative conditions, variation, in-painting, the way
between two samples. On a tiny network that has learnt two equal slots, and on random weights where any will do."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.errors import ConfigError
from mmgen.generators.flow_sampling import Condition, FlowSampling, between, in_paint
from mmgen.generators.joint_flow import JointFlow, embedding_key
from mmgen.generators.samplers import SAMPLERS, State, schedule
from mmgen.generators.sampling import Sampling, Steering

SHAPES = {"a": (2, 3), "b": (1, 4), "c": (3, 1)}
E, ROWS = 5, 4


def rng(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def random_flow() -> JointFlow:
    torch.manual_seed(0)
    flow = JointFlow(slots=SHAPES, width=32, blocks=2, embedding_width=E)
    # the last layers start at zero; here they must show what comes in
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return flow.eval()


def batch(*slots: str, seed: int = 1, rows: int = ROWS) -> Batch:
    values, masks, draws = {}, {}, rng(seed)
    for slot in slots:
        values[slot] = torch.randn((rows, *SHAPES[slot]), generator=draws)
        masks[slot] = torch.ones(rows, SHAPES[slot][0], dtype=torch.bool)
        values[embedding_key(slot)] = torch.randn((rows, 1, E), generator=draws)
        masks[embedding_key(slot)] = torch.ones(rows, 1, dtype=torch.bool)
    return Batch(values, masks, torch.full((rows,), -1), torch.ones(rows), [str(row) for row in range(rows)])


def sample(given: Batch, *to: str, how: Sampling | None = None, seed: int = 7, **steering: Any) -> State:
    led = Steering(**steering) if steering else None
    return random_flow().sample(given, to, how or Sampling(3, 2.0), rng(seed), led)


def velocity(given: Batch, *to: str, how: Sampling, negative: Batch | None = None) -> State:
    """The guided field at one place."""
    flow = random_flow()
    x = {slot: torch.full((ROWS, *SHAPES[slot]), 0.3) for slot in to}
    away = None if negative is None else flow._condition(negative)
    with torch.no_grad():
        return flow._sampling.guided(x, 0.5, flow._condition(given), how, away)


def only(whole: Batch, *slots: str) -> Batch:
    keys = {*slots, *(embedding_key(slot) for slot in slots)}
    return replace(whole, values={k: v for k, v in whole.values.items() if k in keys},
                   masks={k: v for k, v in whole.masks.items() if k in keys})  # fmt: skip


PLAIN = Sampling(3, 1.0)


class TestGuidance:
    def test_one_is_the_model_and_more_moves_away_from_what_is_made_alone(self) -> None:
        given = batch("a")
        plain, twice = (velocity(given, "b", how=Sampling(3, scale))["b"] for scale in (1.0, 2.0))
        alone = velocity(batch(), "b", how=PLAIN)["b"]
        torch.testing.assert_close(twice, 2 * plain - alone)
        assert not torch.allclose(plain, alone)

    def test_a_pair_of_weight_one_is_the_plain_conditional_whatever_the_guidance(self) -> None:
        given = batch("a")
        plain = velocity(given, "b", how=PLAIN)["b"]
        paired = velocity(given, "b", how=Sampling(3, 4.0, pairs={("a", "b"): 1.0}))["b"]
        torch.testing.assert_close(paired, plain)

    def test_the_only_pair_takes_the_place_of_the_guidance(self) -> None:
        given = batch("a")
        made = [
            velocity(given, "b", how=how)["b"]
            for how in (Sampling(3, 3.0), Sampling(3, 1.5, pairs={("a", "b"): 3.0}),
                        Sampling(3, 3.0, pairs={("a", "b"): 3.0}))
        ]  # fmt: skip
        torch.testing.assert_close(made[1], made[0])
        torch.testing.assert_close(made[2], made[0])

    def test_each_given_slot_pulls_with_its_own_weight(self) -> None:
        given, weights = batch("a", "c"), {("a", "b"): 3.0, ("c", "b"): 0.5}
        alone, by_a, by_c, both = (
            velocity(each, "b", how=PLAIN)["b"] for each in (batch(), only(given, "a"), only(given, "c"), given)
        )
        wanted = both + 2.0 * (by_a - alone) - 0.5 * (by_c - alone)
        torch.testing.assert_close(velocity(given, "b", how=Sampling(3, 1.0, pairs=weights))["b"], wanted)

    def test_a_pair_of_two_slots_made_together_draws_one_to_the_other_alone(self) -> None:
        joint, pairs = velocity(batch(), "a", "b", how=PLAIN), {("a", "b"): 3.0}
        pulled = velocity(batch(), "a", "b", how=Sampling(3, 1.0, pairs=pairs))
        torch.testing.assert_close(pulled["a"], joint["a"])
        alone = velocity(batch(), "b", how=PLAIN)["b"]
        torch.testing.assert_close(pulled["b"], alone + 3.0 * (joint["b"] - alone))

    def test_in_rows_without_the_given_slot_its_pair_counts_nothing(self) -> None:
        whole = batch("a", "c")
        mask = whole.masks["a"].clone()
        mask[2:] = False
        part = replace(whole, masks={**whole.masks, "a": mask, embedding_key("a"): mask[:, :1]})
        plain, paired = (
            velocity(part, "b", how=Sampling(3, 2.0, pairs=pairs), negative=batch("c", seed=5))["b"]
            for pairs in ({}, {("a", "b"): 9.0})
        )
        torch.testing.assert_close(plain[2:], paired[2:])
        assert not torch.allclose(plain[:2], paired[:2])

    def test_a_negative_condition_takes_the_place_of_what_is_made_alone(self) -> None:
        given, bad = batch("a"), batch("a", seed=5)
        plain, away = velocity(given, "b", how=PLAIN)["b"], velocity(bad, "b", how=PLAIN)["b"]
        led = velocity(given, "b", how=Sampling(3, 3.0), negative=bad)["b"]
        torch.testing.assert_close(led, away + 3 * (plain - away))
        torch.testing.assert_close(velocity(given, "b", how=Sampling(3, 5.0), negative=given)["b"], plain)
        # with nothing given too
        alone = velocity(batch(), "b", how=PLAIN)["b"]
        torch.testing.assert_close(
            velocity(batch(), "b", how=Sampling(3, 2.0), negative=bad)["b"], away + 2 * (alone - away)
        )
        assert not torch.allclose(sample(given, "b")["b"], sample(given, "b", negative=bad)["b"])


class TestMix:
    def test_one_condition_of_any_weight_is_that_condition(self) -> None:
        given = batch("a")
        for weight in (1.0, 0.2):
            torch.testing.assert_close(sample(batch(), "b", mix=((weight, given),))["b"], sample(given, "b")["b"])

    def test_conditions_of_several_slots_or_of_one_are_followed_by_their_weights(self) -> None:
        flow, how = random_flow(), Sampling(1, 2.0)
        for parts in ((batch("a"), batch("c")), (batch("a"), batch("a", seed=9))):
            # one Euler step is linear in the velocity
            one, other = (sample(each, "b", how=how)["b"] for each in parts)
            mixed = flow.sample(batch(), ("b",), how, rng(), Steering(mix=((7, parts[0]), (3, parts[1]))))["b"]
            torch.testing.assert_close(mixed, 0.7 * one + 0.3 * other)

    def test_what_is_asked_for_is_not_looked_at_in_them(self) -> None:
        both = sample(batch(), "b", mix=((1.0, batch("a", "b")),))["b"]
        torch.testing.assert_close(both, sample(only(batch("a", "b"), "a"), "b")["b"])

    @pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
    def test_weights_that_are_none_are_refused(self, weights: tuple[float, float]) -> None:
        with pytest.raises(ConfigError, match="mix: wanted weights"):
            sample(batch(), "b", mix=tuple((weight, batch("a")) for weight in weights))


class TestStart:
    def test_full_strength_forgets_it_and_little_stays_near(self) -> None:
        given, start = batch("a"), {"b": 3 * torch.ones(ROWS, *SHAPES["b"])}
        anew = sample(given, "b")["b"]
        torch.testing.assert_close(sample(given, "b", start=start, strength=1.0)["b"], anew)
        away = [float((sample(given, "b", start=start, strength=each)["b"] - start["b"]).norm())
                for each in (0.02, 0.3, 0.7)]  # fmt: skip
        assert away == sorted(away)
        assert away[0] < 0.1 * float((anew - start["b"]).norm())

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_rows_are_seeded_and_their_own(self, name: str) -> None:
        given, start = batch("a"), {"b": torch.ones(ROWS, *SHAPES["b"])}
        keep = {"b": torch.zeros(ROWS, 1, dtype=torch.bool)}
        how = Sampling(3, 2.0, sampler=name, shift=2.0)
        for more in ({"strength": 0.5}, {"keep": keep}):
            whole, again = (sample(given, "b", how=how, start=start, **more)["b"] for _ in range(2))
            assert torch.equal(whole, again)
            assert not torch.allclose(whole, sample(given, "b", how=how, seed=8, start=start, **more)["b"])
            part = {"b": start["b"][:2]}
            few = {name: {"b": mask["b"][:2]} for name, mask in more.items() if name == "keep"} or more
            torch.testing.assert_close(
                sample(given.rows(0, 2), "b", how=how, start=part, **few)["b"], whole[:2], atol=1e-5, rtol=1e-4
            )

    @pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, float("nan")])
    def test_a_strength_that_is_none_is_refused(self, strength: float) -> None:
        with pytest.raises(ConfigError, match="strength: wanted more than 0 and at most 1"):
            sample(batch("a"), "b", start={"b": torch.ones(ROWS, *SHAPES["b"])}, strength=strength)

    def test_a_made_slot_without_a_start_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="'c' has none"):
            sample(batch("a"), "b", "c", start={"b": torch.ones(ROWS, *SHAPES["b"])}, strength=0.5)


class TestInPaint:
    def test_kept_tokens_come_back_exactly_and_the_others_are_made(self) -> None:
        known = {"a": torch.randn(ROWS, *SHAPES["a"], generator=rng(3))}
        keep = {"a": torch.tensor([[True, False]]).expand(ROWS, 2)}
        made = sample(batch("c"), "a", start=known, keep=keep)["a"]
        assert torch.equal(made[:, 0], known["a"][:, 0])
        assert not torch.isclose(made[:, 1], known["a"][:, 1]).any()
        # what stood in the hole is not looked at
        hidden = {"a": known["a"].clone()}
        hidden["a"][:, 1] = 50
        torch.testing.assert_close(sample(batch("c"), "a", start=hidden, keep=keep)["a"], made)

    def test_resampling_lets_what_is_made_meet_what_is_kept(self) -> None:
        """Two tokens that are equal, each N(0, 1): E[x_1 | x_t] of both is the same, their mean's."""

        def field(x: State, t: float) -> State:
            mean = x["a"].mean(1, keepdim=True)
            variance = t * t + (1 - t) ** 2 / 2
            x_1 = (t / variance * mean).expand_as(x["a"])
            return {"a": (x_1 - x["a"]) / (1 - t)}

        rows, steps = 400, 20
        known = torch.randn(rows, 1, 1, generator=rng(1)).expand(rows, 2, 1)
        keep = {"a": torch.tensor([[True, False]]).expand(rows, 2)}
        away = []
        for again in (1, 4, 12):
            noise = (
                {"a": z} for z in torch.randn(1 + (again - 1) * (steps - 1), rows, 2, 1, generator=rng(2)).unbind(0)
            )
            made = in_paint(field, SAMPLERS["euler"], noise, {"a": known}, keep, schedule(steps), again)["a"]
            away.append(float((made[:, 1] - known[:, 1]).square().mean()))
        assert away[1] < 0.5 * away[0]
        assert away[2] < 0.15 * away[0]

    def test_the_way_back_has_the_deviation_of_its_time(self) -> None:
        noise = ({"a": z} for z in torch.randn(3, 20_000, 1, 1, generator=rng(1)).unbind(0))
        seen: list[tuple[float, State]] = []

        def field(x: State, t: float) -> State:
            seen.append((t, x))
            # data are all 0
            return {"a": -x["a"] / (1 - t)}

        keep = {"a": torch.zeros(20_000, 1, dtype=torch.bool)}
        in_paint(field, SAMPLERS["euler"], noise, {"a": torch.zeros(20_000, 1, 1)}, keep, [0.0, 0.3, 0.6, 1.0], 2)
        assert [t for t, _ in seen] == [0.0, 0.0, 0.3, 0.3, 0.6]
        for t, x in seen:
            assert float(x["a"].std()) == pytest.approx(1 - t, rel=0.02)


# ---------------------------------------------------------------- a network that has learnt something


@functools.cache
def trained() -> JointFlow:
    """Two slots of two equal numbers, one of four points with a little noise, and equal to each other."""
    torch.manual_seed(0)
    flow = JointFlow(slots={"x": (2, 1), "y": (2, 1)}, width=64, blocks=3)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for step in range(300):
        optimiser.zero_grad()
        flow.loss(points(step), rng(step))["loss"].backward()
        optimiser.step()
    return flow.eval().requires_grad_(False)


def points(seed: int, count: int = 128) -> Batch:
    level = torch.tensor([-1.5, -0.5, 0.5, 1.5])[torch.randint(0, 4, (count, 1, 1), generator=rng(seed))]
    value = (level + 0.15 * torch.randn(count, 1, 1, generator=rng(seed + 1))).expand(count, 2, 1).contiguous()
    masks = {slot: torch.ones(count, 2, dtype=torch.bool) for slot in ("x", "y")}
    return Batch({"x": value, "y": value}, masks, torch.full((count,), -1), torch.ones(count), ["k"] * count)


def given_x(value: Tensor) -> Batch:
    rows = len(value)
    return Batch({"x": value}, {"x": torch.ones(rows, 2, dtype=torch.bool)}, torch.full((rows,), -1),
                 torch.ones(rows), ["k"] * rows)  # fmt: skip


NOTHING = Batch({}, {}, torch.full((1,), -1), torch.ones(1), ["k"])


@pytest.mark.parametrize(("name", "steps"), [("euler", 20), ("heun", 10), ("dpm", 10)])
def test_every_sampler_follows_the_condition(name: str, steps: int) -> None:
    seen = points(1000)
    made = trained().sample(given_x(seen.values["x"]), ("y",), Sampling(steps, 1.0, sampler=name), rng())["y"]
    assert float((made - seen.values["y"]).abs().mean()) < 0.35


def test_both_ends_of_a_way_between_two_samples_come_back_and_its_middle_is_between() -> None:
    flow, seen = trained(), points(1000).values["x"]
    one, other = seen[seen[:, 0, 0] < -1][:1], seen[seen[:, 0, 0] > 1][:1]
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    made = flow.interpolate({"x": one}, {"x": other}, shares, NOTHING, Sampling(20, 1.0))["x"]
    assert made.shape == (5, 2, 1)
    torch.testing.assert_close(made[:1], one, atol=0.05, rtol=0)
    torch.testing.assert_close(made[-1:], other, atol=0.05, rtol=0)
    middles = made.mean((1, 2))
    assert middles.tolist() == sorted(middles.tolist())
    # nothing is drawn
    assert torch.equal(made, flow.interpolate({"x": one}, {"x": other}, shares, NOTHING, Sampling(20, 1.0))["x"])


def test_what_is_painted_in_fits_what_is_kept() -> None:
    flow, seen = trained(), points(1000)
    keep = {"y": torch.tensor([[True, False]]).expand(len(seen), 2)}
    nothing = replace(seen, values={}, masks={})
    start = {"y": torch.where(keep["y"][..., None], seen.values["y"], 0.0)}
    made = flow.sample(nothing, ("y",), Sampling(20, 1.0), rng(), Steering(start=start, keep=keep))["y"]
    assert torch.equal(made[:, 0], seen.values["y"][:, 0])
    assert float((made[:, 1] - made[:, 0]).abs().median()) < 0.3


def test_a_variation_stays_with_what_it_began_from() -> None:
    flow, seen = trained(), points(1000)
    nothing, start = replace(seen, values={}, masks={}), {"y": seen.values["y"]}
    near, far = (
        flow.sample(nothing, ("y",), Sampling(20, 1.0), rng(), Steering(start=start, strength=each))["y"]
        for each in (0.3, 0.95)
    )
    away = [float((each - seen.values["y"]).abs().mean()) for each in (near, far)]
    assert away[0] < 0.3 < 0.8 < away[1]


def test_a_flow_needs_no_network_of_ours() -> None:
    """Any velocity will do: here that of data which are all 2."""

    def network(x: State, t_BS: Tensor, roles_BS: Tensor, embeddings: State) -> State:
        return {"a": (2 - x["a"]) / (1 - t_BS[:, :1, None])}

    nothing = Condition({}, torch.zeros(3, 1, dtype=torch.bool), {})
    made = FlowSampling(network, {"a": (2, 1)}, "heun").sample(nothing, ("a",), Sampling(5, 1.0), rng())["a"]
    torch.testing.assert_close(made, torch.full((3, 2, 1), 2.0))
    assert torch.equal(between({"a": made}, {"a": made + 1}, 0.5)["a"], made + 0.5)
