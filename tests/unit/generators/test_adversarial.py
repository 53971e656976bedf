"""The adversarial generator: any slots from any slots, a score that is proper, a discriminator that is not kept."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmgen import config as configs
from mmgen.batches import Batch
from mmgen.codec_set import weights_of
from mmgen.errors import ConfigError
from mmgen.generators.adversarial import AdversarialGenerator, AdversarialLearner, Draw, energy_score
from mmgen.generators.config import AdversarialConfig
from mmgen.generators.joint_flow import embedding_key
from mmgen.generators.sampling import Sampling

SHAPES = {"a": (2, 3), "b": (1, 4), "c": (3, 1), "d": (1, 2)}
E = 5
ONCE = Sampling(steps=1, guidance=1.0)


def make(**more: Any) -> AdversarialGenerator:
    torch.manual_seed(0)
    return AdversarialGenerator(slots=SHAPES, width=32, blocks=2, noise_width=4, embedding_width=E, **more)


def learner(**more: Any) -> AdversarialLearner:
    made = make(**more).learner(seed=1)
    assert isinstance(made, AdversarialLearner)
    return made


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


def sample(generator: AdversarialGenerator, given: Batch, *to: str, seed: int = 7) -> dict[str, Tensor]:
    return generator.sample(given, to, ONCE, rng(seed))


class TestSample:
    @pytest.mark.parametrize("to", [("b",), ("c", "a"), tuple(SHAPES)])
    def test_any_slots_can_be_asked_for_from_any_others(self, to: tuple[str, ...]) -> None:
        made = sample(make(), batch(slots=tuple(slot for slot in SHAPES if slot not in to)), *to)
        assert {slot: tuple(z.shape) for slot, z in made.items()} == {slot: (6, *SHAPES[slot]) for slot in to}
        assert all(z.dtype == torch.float32 for z in made.values())

    def test_the_seed_decides_and_rows_do_not_depend_on_how_many_there_are(self) -> None:
        generator, given = make(), batch(slots=("a", "d"))
        whole, again, part = sample(generator, given, "b"), sample(generator, given, "b"), given.rows(0, 2)
        assert torch.equal(whole["b"], again["b"])
        assert not torch.allclose(whole["b"], sample(generator, given, "b", seed=8)["b"])
        torch.testing.assert_close(whole["b"][:2], sample(generator, part, "b")["b"], atol=1e-5, rtol=1e-4)

    def test_the_condition_is_used_and_what_is_absent_or_asked_for_is_not_looked_at(self) -> None:
        generator, given = make(), batch()
        made = sample(generator, given, "b")["b"]
        for slot in ("a", embedding_key("a")):
            assert not torch.allclose(made, sample(generator, changed(given, slot, 3.0, present=True), "b")["b"])
        for slot in ("b", embedding_key("b")):
            assert torch.equal(made, sample(generator, changed(given, slot, 3.0, present=True), "b")["b"])
        missing, nonsense = (
            sample(generator, changed(changed(given, "a", value), embedding_key("a"), value), "b")["b"]
            for value in (0.0, float("nan"))
        )
        assert torch.equal(missing, nonsense)
        left_out = batch(slots=("b", "c", "d"))
        left_out = replace(left_out, values={**given.values}, masks={**given.masks})
        for slot in ("a", embedding_key("a")):
            del left_out.values[slot], left_out.masks[slot]
        assert torch.equal(missing, sample(generator, left_out, "b")["b"])

    def test_nothing_given_is_a_condition_too(self) -> None:
        nothing = replace(batch(), values={}, masks={})
        assert set(sample(make(), nothing, *SHAPES)) == set(SHAPES)

    def test_it_runs_without_fusion_embeddings(self) -> None:
        torch.manual_seed(0)
        generator = AdversarialGenerator(slots=SHAPES, width=32, blocks=1)
        given = batch(slots=("a",))
        made = sample(generator, given, "b")["b"]
        assert torch.equal(made, sample(generator, changed(given, embedding_key("a"), 3.0, present=True), "b")["b"])

    @pytest.mark.parametrize(("to", "wanted"), [((), "came none"), (("a", "a"), "each once"), (("x",), "unknown slot")])
    def test_what_cannot_be_made_is_refused(self, to: tuple[str, ...], wanted: str) -> None:
        with pytest.raises(ConfigError, match=wanted):
            make().sample(batch(), to, ONCE, rng())


class TestLoss:
    @pytest.mark.parametrize("make_one", [make, learner])
    def test_the_same_seed_gives_the_same_loss_and_another_seed_another(self, make_one: Any) -> None:
        network, whole = make_one(), batch()
        losses = [network.loss(whole, rng(seed))["loss"].item() for seed in (1, 1, 2)]
        assert losses[0] == losses[1] != losses[2]

    @pytest.mark.parametrize("make_one", [make, learner])
    def test_what_is_masked_is_neither_read_nor_counted(self, make_one: Any) -> None:
        network, whole = make_one(), batch()
        rows = slice(2, 4)
        one, other = (network.loss(changed(whole, "a", value, rows), rng())["loss"] for value in (0.0, float("nan")))
        assert torch.isfinite(one)
        assert torch.equal(one, other)
        mask, losses = whole.masks["c"].clone(), []
        mask[:, 1] = False
        for value in (0.0, 9.0):
            tokens = whole.values["c"].clone()
            tokens[:, 1] = value
            part = replace(whole, masks={**whole.masks, "c": mask}, values={**whole.values, "c": tokens})
            losses.append(network.loss(part, rng())["loss"])
        assert torch.equal(losses[0], losses[1])

    @pytest.mark.parametrize("make_one", [make, learner])
    def test_rows_of_weight_0_count_nothing(self, make_one: Any) -> None:
        network, whole = make_one(), batch()
        padded = replace(whole, weights_B=torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
        moved = changed(padded, "b", 30.0, slice(3, None), present=True)
        assert torch.equal(network.loss(padded, rng())["loss"], network.loss(moved, rng())["loss"])

    @pytest.mark.parametrize("make_one", [make, learner])
    def test_slots_that_the_batch_does_not_name_are_missing_and_nothing_at_all_is_finite(self, make_one: Any) -> None:
        network = make_one()
        assert torch.isfinite(network.loss(batch(slots=("a", "c")), rng())["loss"])
        nothing = changed(changed(batch(slots=("a",)), "a", 0.0), embedding_key("a"), 0.0)
        network.loss(nothing, rng())["loss"].backward()
        assert all(torch.isfinite(weight.grad).all() for weight in network.parameters() if weight.grad is not None)

    def test_a_trained_generators_loss_is_its_energy_score_with_or_without_the_discriminator(self) -> None:
        trained, whole = learner(), batch()
        alone = trained.generator.loss(whole, rng())["loss"]
        assert trained.loss(whole, rng())["energy"] == alone
        with torch.no_grad():
            found = trained.loss(whole, rng())
        assert found["penalty"] == 0

    def test_every_slot_counts_the_same_whatever_its_size(self) -> None:
        draw = make(joint_share=1.0).draw(batch(), rng())
        each = [part.sum(1) for part in draw.weight_BN.split([6, 4, 3, 2], dim=1)]
        assert all(torch.allclose(part, torch.full((6,), 0.25)) for part in each)


class TestEnergyScore:
    def score(self, draws: Tensor, data: Tensor) -> float:
        """Of a generator that makes these draws evenly, for data that are these evenly: over all combinations."""
        made, other, real = (part.reshape(-1, 1) for part in torch.meshgrid(draws, draws, data, indexing="ij"))
        count = len(real)
        ones = torch.ones(count, 1)
        none = torch.zeros(count, 0)
        return energy_score(Draw(none, real, made, other, ones, ones[:, 0])).item()

    def test_it_is_lowest_for_draws_that_are_spread_as_the_data_are(self) -> None:
        data = torch.tensor([-1.0, 1.0])
        both = self.score(data, data)
        assert both == pytest.approx(0.5, abs=1e-3)
        for worse in ([0.0, 0.0], [1.0, 1.0], [-0.5, 0.5], [-1.0, 1.0, 1.0, 1.0], [-2.0, 2.0]):
            assert self.score(torch.tensor(worse), data) > both + 0.05

    def test_a_generator_that_knows_pays_nothing(self) -> None:
        assert self.score(torch.tensor([2.0]), torch.tensor([2.0])) == pytest.approx(0.5 * math.sqrt(1e-8), abs=1e-6)


class TestAdversary:
    def test_each_players_gradient_reaches_only_its_own_weights(self) -> None:
        """The discriminator's is the same whatever the generator makes of it, and the other way round."""

        def gradients(**weights: float) -> tuple[list[Tensor], list[Tensor]]:
            made = learner(**weights)
            made.loss(batch(), rng())["loss"].backward()
            players = (made.generator, made.discriminator)
            mine, theirs = ([w.grad for w in each.parameters() if w.grad is not None] for each in players)
            return mine, theirs

        def equal(one: list[Tensor], other: list[Tensor]) -> bool:
            return all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one, other, strict=True))

        (g, d), (g_louder, d_louder), (g_steeper, d_steeper) = (
            gradients(adversarial_weight=0.1),
            gradients(adversarial_weight=5.0),
            gradients(adversarial_weight=0.1, penalty_weight=9.0),
        )
        assert equal(d, d_louder)
        assert not equal(g, g_louder)
        assert equal(g, g_steeper)
        assert not equal(d, d_steeper)

    def test_it_sees_whether_the_targets_fit_the_condition(self) -> None:
        discriminator = learner().discriminator
        x_BN, wanted_BN = torch.randn(4, 15, generator=rng()), torch.ones(4, 15, dtype=torch.bool)
        known_BK = torch.randn(4, make().condition_size, generator=rng(1))
        (_, score_B1), (_, other_B1) = (
            discriminator(x_BN, wanted_BN, known)[0] for known in (known_BK, known_BK.roll(1, dims=0))
        )
        assert not torch.allclose(score_B1, other_B1)

    def test_what_is_no_target_is_not_looked_at(self) -> None:
        discriminator, known_BK = learner().discriminator, torch.zeros(2, make().condition_size)
        wanted_BN = torch.arange(15) < 6
        one, other = torch.zeros(2, 15), torch.zeros(2, 15)
        other[:, 6:] = 9.0
        assert torch.equal(*(discriminator(x, wanted_BN, known_BK)[0][-1] for x in (one, other)))

    def test_the_generator_that_is_kept_has_nothing_of_it(self) -> None:
        made = learner()
        assert weights_of(made.generator) == weights_of(make())
        assert any(name.startswith("discriminator.") for name in made.state_dict())

    def test_without_a_say_there_is_none(self) -> None:
        generator = make(adversarial_weight=0.0)
        assert generator.learner(0) is generator
        with pytest.raises(ConfigError, match="adversarial_weight or energy_weight above 0"):
            make(adversarial_weight=0.0, energy_weight=0.0)

    def test_the_callers_random_stream_is_left_alone(self) -> None:
        generator = make()
        torch.manual_seed(5)
        wanted = torch.rand(2)
        torch.manual_seed(5)
        generator.learner(3)
        assert torch.equal(torch.rand(2), wanted)


def two_modes(count: int, seed: int) -> Batch:
    """x is (±1 by a coin, ±1 as c says): two modes for each c."""
    draws = torch.randint(0, 2, (2, count, 1), generator=rng(seed)) * 2.0 - 1
    x_BD = torch.cat([draws[0], draws[1]], dim=1) + 0.05 * torch.randn(count, 2, generator=rng(seed + 1))
    values = {"x": x_BD[:, None], "c": draws[1][:, None]}
    masks = {slot: torch.ones(count, 1, dtype=torch.bool) for slot in values}
    return Batch(values, masks, torch.full((count,), -1), torch.ones(count), [""] * count)


def test_it_makes_both_modes_of_what_a_condition_leaves_open() -> None:
    torch.manual_seed(0)
    generator = AdversarialGenerator(
        slots={"x": (1, 2), "c": (1, 1)}, width=64, blocks=2, noise_width=2, given_noise=0.1, joint_share=0.0,
        given_share=1.0, absent_share=0.0,
    )  # fmt: skip
    both, noise = generator.learner(1), rng(3)
    optimiser = torch.optim.Adam(both.parameters(), lr=4e-3, betas=(0.5, 0.999))
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
    for step in range(300):
        optimiser.zero_grad()
        both.loss(two_modes(128, step), noise)["loss"].backward()  # type: ignore[operator]
        optimiser.step()
        rate.step()
    given = two_modes(400, 10**6)
    made_BD = sample(generator, given, "x")["x"][:, 0]
    assert 0.35 < (made_BD[:, 0] > 0).float().mean() < 0.65
    # a bell of the same spread would have 38% there
    assert (made_BD[:, 0].abs() < 0.5).float().mean() < 0.15
    assert ((made_BD.abs() - 1).norm(dim=1) < 0.4).float().mean() > 0.7
    assert (made_BD[:, 1].sign() == given.values["c"][:, 0, 0]).float().mean() > 0.95


def test_its_recipe_is_small_with_this_generator() -> None:
    raw = {"name": "x", "recipe": "small_adversarial", "source": {"path": "t.csv", "text": "t", "image": "i"}}
    made = configs.build(raw)
    assert made.generator == AdversarialConfig()
    assert made.slots == configs.build({**raw, "recipe": "small"}).slots
    with pytest.raises(ConfigError, match=r"generator.*adversarial_weight or energy_weight above 0"):
        configs.build({**raw, "generator": {"adversarial_weight": 0, "energy_weight": 0}})
