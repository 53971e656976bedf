"""Two players in one step, each learning from its own loss alone; discriminators of any grid, and what they see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmgen.adversarial import (
    MultiScaleDiscriminator,
    PatchDiscriminator,
    PerceptualDistance,
    PeriodDiscriminator,
    discriminator_hinge,
    feature_distance,
    generator_hinge,
    learner_of,
    play,
    scores,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    """Of every weight, zeros where none came."""
    weights = list(module.parameters())
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-7) for a, b in zip(one, other, strict=True))


class TestPlay:
    def players(self) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
        torch.manual_seed(0)
        maker, discriminator = nn.Conv2d(2, 3, 3, padding=1), MultiScaleDiscriminator(3, (16, 16), width=8)
        return maker, discriminator, torch.randn(4, 3, 16, 16), torch.randn(4, 2, 16, 16)

    @pytest.mark.parametrize("penalty_weight", [0.0, 2.0])
    def test_each_players_gradient_reaches_only_its_own_weights(self, penalty_weight: float) -> None:
        maker, discriminator, real, noise = self.players()
        both = play(discriminator, [real], [maker(noise)], penalty_weight=penalty_weight)
        assert all(not grad.any() for loss in (both.fooling, both.features) for grad in gradients(loss, discriminator))
        assert all(not grad.any() for grad in gradients(both.own, maker))
        # and in the sum, which is what is trained by, neither disturbs the other
        total = both.own + 0.3 * both.fooling + 0.2 * both.features
        assert same(gradients(total, discriminator), gradients(both.own, discriminator))
        assert same(gradients(total, maker), gradients(0.3 * both.fooling + 0.2 * both.features, maker))
        assert all(grad.any() for grad in gradients(both.fooling, maker))
        assert all(grad.any() for grad in gradients(both.features, maker))
        # all but the last bias: over real and made rows together it has nothing to do at the start
        assert sum(bool(grad.any()) for grad in gradients(both.own, discriminator)) >= len(
            list(discriminator.parameters())
        ) - len(discriminator.parts)  # type: ignore[arg-type]

    def test_the_losses_are_the_hinges_of_what_the_discriminator_says(self) -> None:
        maker, discriminator, real, noise = self.players()
        made = maker(noise)
        both = play(discriminator, [real], [made])
        assert torch.allclose(both.own, discriminator_hinge(discriminator(real), discriminator(made)))
        assert torch.allclose(both.fooling, generator_hinge(discriminator(made)))
        assert torch.allclose(both.features, feature_distance(discriminator(real), discriminator(made)))

    def test_a_step_of_each_goes_its_own_way(self) -> None:
        """The same sum of losses makes the discriminator tell better and the maker fool better."""
        maker, discriminator, real, noise = self.players()
        before = play(discriminator, [real], [maker(noise)])
        (before.own + before.fooling).backward()
        with torch.no_grad():
            moved = [(weight, weight.grad.clone()) for weight in discriminator.parameters() if weight.grad is not None]
            for weight, grad in moved:
                weight -= 1e-3 * grad
            assert play(discriminator, [real], [maker(noise)]).own < before.own
            for weight, grad in moved:
                weight += 1e-3 * grad
            for weight in maker.parameters():
                assert weight.grad is not None
                weight -= 1e-3 * weight.grad
            assert play(discriminator, [real], [maker(noise)]).fooling < before.fooling

    def test_the_penalty_is_the_squared_slope_at_real_values(self) -> None:
        class Linear(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(3, 1, bias=False)

            def forward(self, x_BN: Tensor) -> list[list[Tensor]]:
                return [[x_BN, self.layer(x_BN)]]

        discriminator, x = Linear(), torch.randn(5, 3, generator=rng())
        slope = discriminator.layer.weight.square().sum()
        both = play(discriminator, [x], [x], penalty_weight=4.0)
        assert torch.allclose(both.penalty, slope)
        assert torch.allclose(both.own, play(discriminator, [x], [x]).own + 2.0 * slope)
        assert not both.features
        with torch.no_grad():
            assert not play(discriminator, [x], [x], penalty_weight=4.0).penalty

    def test_rows_of_weight_0_count_nothing(self) -> None:
        _, discriminator, real, _ = self.players()
        weights_B = torch.tensor([1.0, 1.0, 0.0, 0.0])
        made, other = real.flip(1), real.flip(1)
        other[2:] += 9.0
        found = [play(discriminator, [real], [each], weights_B, 1.0) for each in (made, other)]
        assert torch.allclose(found[0].own, found[1].own)
        assert torch.allclose(found[0].fooling, found[1].fooling)
        part = play(discriminator, [real[:2]], [made[:2]], penalty_weight=1.0)
        assert torch.allclose(found[0].own, part.own, atol=1e-6)


def test_hinges_by_hand() -> None:
    real, made = [[torch.tensor([[2.0], [0.5]])]], [[torch.tensor([[-3.0], [0.5]])]]
    assert discriminator_hinge(real, made).item() == pytest.approx((0 + 0 + 0.5 + 1.5) / 2)
    assert generator_hinge(made).item() == pytest.approx((3.0 - 0.5) / 2)
    assert generator_hinge(made, torch.tensor([0.0, 1.0])).item() == pytest.approx(-0.5)


def test_features_of_the_real_side_are_a_target() -> None:
    real, made = torch.full((2, 4), 2.0, requires_grad=True), torch.full((2, 4), 3.0, requires_grad=True)
    distance = feature_distance([[real, real]], [[made, made]])
    assert distance.item() == pytest.approx(0.5)
    distance.backward()
    assert real.grad is None
    assert made.grad is not None


class TestDiscriminators:
    @pytest.mark.parametrize(
        ("size", "parts"), [((8, 8), 1), ((16, 16), 1), ((32, 32), 2), ((64, 100), 2), ((4, 4), 1), ((2, 3), 1)]
    )
    def test_any_grid_is_judged_at_as_many_scales_as_it_has(self, size: tuple[int, int], parts: int) -> None:
        torch.manual_seed(0)
        found = MultiScaleDiscriminator(1, size, width=8)(torch.randn(2, 1, *size))
        assert len(found) == parts
        assert all(score.shape[:2] == (2, 1) and score.numel() for score in scores(found))

    def test_a_patchs_score_sees_that_patch_alone(self) -> None:
        torch.manual_seed(0)
        discriminator, x = PatchDiscriminator(1, width=8, layers=1), torch.randn(1, 1, 32, 32, requires_grad=True)
        discriminator(x)[0][-1][0, 0, 2, 2].backward()
        assert x.grad is not None
        rows = x.grad[0, 0].any(1).nonzero()
        assert (int(rows.min()), int(rows.max())) == (1, 8)

    def test_a_row_does_not_depend_on_the_rows_beside_it(self) -> None:
        torch.manual_seed(0)
        grids, waves = torch.randn(3, 2, 32, 32), torch.randn(3, 331)
        for discriminator, x in (
            (MultiScaleDiscriminator(2, (32, 32), width=8), grids),
            (PeriodDiscriminator(), waves),
        ):
            whole, alone = scores(discriminator(x)), scores(discriminator(x[:1]))
            assert all(torch.allclose(one[:1], other, atol=1e-5) for one, other in zip(whole, alone, strict=True))

    def test_a_period_sees_what_repeats_with_it(self) -> None:
        """Each column of the fold is judged by itself: every third sample, and no other."""
        torch.manual_seed(0)
        discriminator = PeriodDiscriminator((3,), width=8, layers=1)
        x = torch.randn(1, 300, requires_grad=True)
        discriminator(x)[0][-1][0, 0, 10, 1].backward()
        assert x.grad is not None
        assert {int(place) % 3 for place in x.grad[0].nonzero()} == {1}

    @pytest.mark.parametrize("length", [240, 241, 331])
    def test_a_waveform_of_any_length_is_judged_at_every_period(self, length: int) -> None:
        assert len(PeriodDiscriminator()(torch.randn(2, length))) == 5


class TestPerceptualDistance:
    def test_it_is_the_same_for_the_same_seed_and_leaves_the_callers_stream_alone(self) -> None:
        torch.manual_seed(3)
        wanted = torch.rand(1)
        torch.manual_seed(3)
        one, other, another = PerceptualDistance(3), PerceptualDistance(3), PerceptualDistance(3, seed=1)
        assert torch.equal(torch.rand(1), wanted)
        real, made = torch.randn(2, 3, 32, 32, generator=rng(1)), torch.randn(2, 3, 32, 32, generator=rng(2))
        assert one(real, made) == other(real, made) != another(real, made)
        assert one(real, real) == 0

    def test_nothing_in_it_learns(self) -> None:
        made = torch.randn(1, 1, 16, 16, requires_grad=True)
        PerceptualDistance(1)(torch.randn(1, 1, 16, 16), made).backward()
        assert made.grad is not None
        assert made.grad.any()
        assert not any(weight.requires_grad for weight in PerceptualDistance(1).parameters())

    def test_it_minds_grain_more_than_a_change_of_contrast_that_is_as_large(self) -> None:
        stripes = torch.sin(torch.arange(32) * 1.2).expand(1, 1, 32, 32)
        grain, paler = torch.randn(stripes.shape, generator=rng()), 0.7 * stripes
        grainy = stripes + grain * (paler - stripes).norm() / grain.norm()
        measure = PerceptualDistance(1)
        assert measure(stripes, paler) < measure(stripes, grainy)


def test_a_network_without_an_adversary_is_its_own_learner() -> None:
    network = nn.Linear(2, 2)
    assert learner_of(network, 0) is network
