"""The joint flow: roles and times, masks, and that one network learns joint and conditionals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmgen.batches import Batch
from mmgen.errors import ConfigError
from mmgen.generators.joint_flow import JointFlow, embedding_key
from mmgen.generators.roles import ABSENT, GIVEN, TARGET, draw_roles, draw_times
from mmgen.generators.samplers import State
from mmgen.generators.sampling import Sampling

SHAPES = {"a": (2, 3), "b": (1, 4), "c": (3, 1), "d": (1, 2)}
E = 5


def make(**more: Any) -> JointFlow:
    torch.manual_seed(0)
    flow = JointFlow(slots=SHAPES, width=32, blocks=2, embedding_width=E, **more)
    # the last layers start at zero; here they must show what comes in
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return flow


def batch(count: int = 6, slots: tuple[str, ...] = tuple(SHAPES), embedded: bool = True) -> Batch:
    rng = torch.Generator().manual_seed(1)
    values, masks = {}, {}
    for slot in slots:
        values[slot] = torch.randn((count, *SHAPES[slot]), generator=rng)
        masks[slot] = torch.ones(count, SHAPES[slot][0], dtype=torch.bool)
        if embedded:
            values[embedding_key(slot)] = torch.randn((count, 1, E), generator=rng)
            masks[embedding_key(slot)] = torch.ones(count, 1, dtype=torch.bool)
    return Batch(values, masks, torch.full((count,), -1), torch.ones(count), [str(row) for row in range(count)])


def changed(whole: Batch, slot: str, value: float, rows: slice = slice(None), present: bool = False) -> Batch:
    """`slot` (or an embedding) holding `value` in these rows, absent unless `present`."""
    new, mask = whole.values[slot].clone(), whole.masks[slot].clone()
    new[rows] = value
    mask[rows] = present
    return replace(whole, values={**whole.values, slot: new}, masks={**whole.masks, slot: mask})


def rng(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(flow: JointFlow, given: Batch, *to: str, guidance: float = 2.0, steps: int = 3) -> State:
    return flow.sample(given, to, Sampling(steps, guidance), rng())


class TestRoles:
    def test_every_row_has_a_target_and_what_is_missing_stays_absent(self) -> None:
        present_BS = torch.rand((500, 4), generator=rng()) < 0.6
        present_BS[:, 0] |= ~present_BS.any(1)
        roles_BS = draw_roles(present_BS, joint_share=0.3, given_share=0.4, absent_share=0.3, rng=rng())
        assert (roles_BS == TARGET).any(1).all()
        assert (roles_BS[~present_BS] == ABSENT).all()
        assert {ABSENT, TARGET, GIVEN} == set(roles_BS[present_BS].tolist())

    def test_shares_are_kept(self) -> None:
        present_BS = torch.ones(4000, 3, dtype=torch.bool)
        everything = draw_roles(present_BS, joint_share=1.0, given_share=0.5, absent_share=0.5, rng=rng())
        assert (everything == TARGET).all()
        parted = draw_roles(present_BS, joint_share=0.0, given_share=0.6, absent_share=0.4, rng=rng())
        assert ((parted == TARGET).sum(1) == 1).all()
        assert abs(float((parted == GIVEN).float().mean()) - 0.4) < 0.02

    def test_given_stands_at_one_absent_at_zero_and_targets_between(self) -> None:
        roles_BS = torch.tensor([[GIVEN, ABSENT, TARGET, TARGET]]).repeat(200, 1)
        together, apart = (draw_times(roles_BS, shared_share=share, rng=rng()) for share in (1.0, 0.0))
        for t_BS in (together, apart):
            assert (t_BS[:, 0] == 1).all()
            assert (t_BS[:, 1] == 0).all()
            assert ((t_BS[:, 2:] > 0) & (t_BS[:, 2:] < 1)).all()
        assert torch.equal(together[:, 2], together[:, 3])
        assert not torch.equal(apart[:, 2], apart[:, 3])


class TestLoss:
    def test_the_same_seed_gives_the_same_loss_and_another_seed_another(self) -> None:
        flow, whole = make(), batch()
        losses = [flow.loss(whole, rng(seed))["loss"].item() for seed in (1, 1, 2)]
        assert losses[0] == losses[1] != losses[2]

    def test_what_is_masked_is_neither_read_nor_counted(self) -> None:
        flow, whole = make(), batch()
        rows = slice(2, 4)
        one, other = (flow.loss(changed(whole, "a", value, rows), rng())["loss"] for value in (0.0, float("nan")))
        assert torch.isfinite(one)
        assert torch.equal(one, other)

    def test_a_masked_token_within_a_slot_is_neither_read_nor_counted(self) -> None:
        flow, whole = make(), batch()
        mask = whole.masks["a"].clone()
        mask[:, 1] = False
        losses = []
        for value in (0.0, 9.0):
            tokens = whole.values["a"].clone()
            tokens[:, 1] = value
            part = replace(whole, masks={**whole.masks, "a": mask}, values={**whole.values, "a": tokens})
            losses.append(flow.loss(part, rng())["loss"])
        assert torch.equal(losses[0], losses[1])

    def test_rows_of_weight_0_count_nothing(self) -> None:
        flow, whole = make(), batch()
        weights_B = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
        padded = replace(whole, weights_B=weights_B)
        moved = changed(padded, "b", 30.0, slice(3, None), present=True)
        assert torch.equal(flow.loss(padded, rng())["loss"], flow.loss(moved, rng())["loss"])

    def test_a_slot_that_the_batch_does_not_name_is_missing_and_nothing_at_all_is_finite(self) -> None:
        flow = make()
        found = flow.loss(batch(slots=("a", "c")), rng())
        assert {"loss", "loss_a", "loss_c"} == set(found)
        nothing = changed(batch(slots=("a",)), "a", 0.0)
        flow.loss(nothing, rng())["loss"].backward()
        assert all(torch.isfinite(weight.grad).all() for weight in flow.parameters() if weight.grad is not None)

    def test_it_runs_without_fusion_embeddings(self) -> None:
        torch.manual_seed(0)
        flow = JointFlow(slots=SHAPES, width=32, blocks=1)
        assert torch.isfinite(flow.loss(batch(), rng())["loss"])
        assert sample(flow, batch(slots=("a",), embedded=False), "b")["b"].shape == (6, 1, 4)


class TestSample:
    @pytest.mark.parametrize("to", [("b",), ("c", "a"), tuple(SHAPES)])
    def test_any_slots_can_be_asked_for_from_any_others(self, to: tuple[str, ...]) -> None:
        flow = make()
        made = sample(flow, batch(slots=tuple(slot for slot in SHAPES if slot not in to)), *to)
        assert {slot: tuple(z.shape[1:]) for slot, z in made.items()} == {slot: SHAPES[slot] for slot in to}

    def test_the_seed_decides_and_rows_do_not_depend_on_how_many_there_are(self) -> None:
        flow, given = make(), batch(slots=("a", "d"))
        whole, again, part = sample(flow, given, "b"), sample(flow, given, "b"), sample(flow, given.rows(0, 2), "b")
        assert torch.equal(whole["b"], again["b"])
        torch.testing.assert_close(whole["b"][:2], part["b"], atol=1e-5, rtol=1e-4)

    def test_the_condition_is_used_and_what_is_absent_or_asked_for_is_not_looked_at(self) -> None:
        flow, given = make(), batch()
        made = sample(flow, given, "b")["b"]
        assert not torch.allclose(made, sample(flow, changed(given, "a", 3.0, present=True), "b")["b"])
        assert not torch.allclose(made, sample(flow, changed(given, embedding_key("a"), 3.0, present=True), "b")["b"])
        torch.testing.assert_close(made, sample(flow, changed(given, "b", 3.0, present=True), "b")["b"])
        missing, nonsense = (changed(given, "a", value) for value in (0.0, 50.0))
        missing, nonsense = (changed(each, embedding_key("a"), 0.0) for each in (missing, nonsense))
        torch.testing.assert_close(sample(flow, missing, "b")["b"], sample(flow, nonsense, "b")["b"])

    def test_guidance_without_a_condition_changes_nothing_for_one_slot(self) -> None:
        flow, nothing = make(), batch(slots=())
        one, other = (sample(flow, nothing, "a", guidance=scale)["a"] for scale in (1.0, 4.0))
        assert torch.equal(one, other)

    @pytest.mark.parametrize(
        ("to", "message"), [((), "came none"), (("a", "a"), "each once"), (("e",), "unknown slot")]
    )
    def test_impossible_targets_are_refused(self, to: tuple[str, ...], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            sample(make(), batch(), *to)


def test_one_network_learns_the_joint_and_both_conditionals() -> None:
    """Two slots that are equal, each -1 or +1: made together they agree, and each follows the other when given."""
    torch.manual_seed(0)
    flow = JointFlow(slots={"x": (1, 1), "y": (1, 1)}, width=64, blocks=3)
    optimiser = torch.optim.Adam(flow.parameters(), lr=3e-3)
    keys = [str(row) for row in range(128)]
    for step in range(160):
        sign = torch.randint(0, 2, (128, 1, 1), generator=rng(step)).float() * 2 - 1
        masks = {slot: torch.ones(128, 1, dtype=torch.bool) for slot in ("x", "y")}
        pairs = Batch({"x": sign, "y": sign}, masks, torch.full((128,), -1), torch.ones(128), keys)
        optimiser.zero_grad()
        flow.loss(pairs, rng(step))["loss"].backward()
        optimiser.step()
    flow.eval()
    for given, made in (("x", "y"), ("y", "x")):
        condition = replace(pairs, values={given: sign}, masks={given: masks[given]})
        found = flow.sample(condition, (made,), Sampling(20, 1.0), rng())[made]
        assert (found.sign() == sign).float().mean() > 0.95
    nothing = replace(pairs, values={}, masks={})
    both = flow.sample(nothing, ("x", "y"), Sampling(20, 1.5), rng())
    assert (both["x"].sign() == both["y"].sign()).float().mean() > 0.9
    assert 0.3 < (both["x"] > 0).float().mean() < 0.7
