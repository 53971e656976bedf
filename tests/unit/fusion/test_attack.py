"""Projected gradient descent on slot embeddings: bounded, worse than chance, and absent by default."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.fusion.attack import Attack, deviations, worst
from mmgen.fusion.fusion import hidden
from tests.unit.fusion.test_fusion import batch, make

ATTACK = Attack(0.3, 8, 0.1)
STRONG = {"epsilon": 1.0, "steps": 4, "rate": 0.5, "weight": 1.0}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_raises_the_loss_more_than_a_random_step_of_that_size_and_stays_within_it() -> None:
    torch.manual_seed(0)
    e_BSD, mask_BS = 3 * torch.randn(16, 2, 8), torch.ones(16, 2, dtype=torch.bool)
    mask_BS[3, 1] = False
    wanted_BD = torch.randn(16, 8)

    def loss(at_BSD: Tensor) -> Tensor:
        return (at_BSD.sum(1) - wanted_BD).square().sum()

    move_BSD = worst(loss, e_BSD, mask_BS, ATTACK, rng())
    unit_S1 = deviations(e_BSD, mask_BS)
    bound_BSD = (ATTACK.epsilon * unit_S1).expand_as(move_BSD)
    assert bool((move_BSD.abs() <= bound_BSD + 1e-6).all())
    assert float(unit_S1.mean()) > 2.5
    assert bool((move_BSD[3, 1] == 0).all())
    random_BSD = (torch.rand(e_BSD.shape, generator=rng(1)) * 2 - 1) * bound_BSD
    assert loss(e_BSD + move_BSD) > 1.2 * loss(e_BSD + random_BSD)


def test_no_gradient_of_the_search_reaches_the_weights() -> None:
    fusion, whole = make(), batch()
    e_BSD, mask_BS = fusion.slot_embeddings(whole), fusion.mask(whole)
    worst(lambda at: fusion.fuse(at, mask_BS).square().sum(), e_BSD, mask_BS, ATTACK, rng())
    assert all(weight.grad is None for weight in fusion.parameters())


def test_training_against_it_adds_a_higher_loss_and_validation_does_not() -> None:
    spec = {"epsilon": 0.5, "steps": 3, "rate": 0.3, "weight": 2.0}
    plain, hardened = make(augment=False), make(augment=False, adversarial=spec)
    clean = plain.loss(batch(), rng())["loss"]
    found = hardened.loss(batch(), rng())
    assert float(found["adversarial"]) > float(clean.detach())
    torch.testing.assert_close(found["loss"].detach(), clean.detach() + 2.0 * found["adversarial"])
    torch.testing.assert_close(hardened.eval().loss(batch(), rng())["loss"], plain.eval().loss(batch(), rng())["loss"])


@pytest.mark.parametrize(("more", "right"), [({}, 0.75), ({"adversarial": STRONG}, 1.0)])
def test_what_fools_a_model_does_not_fool_one_trained_against_it(more: dict[str, Any], right: float) -> None:
    fusion, whole = make(augment=False, contrastive_weight=0.0, **more), batch()
    optimiser = torch.optim.Adam(fusion.parameters(), lr=3e-3)
    for step in range(60):
        optimiser.zero_grad()
        fusion.loss(whole, rng(step))["loss"].backward()
        optimiser.step()
    fusion.eval().requires_grad_(False)
    e_BSD, mask_BS = fusion.slot_embeddings(whole), fusion.mask(whole)

    def logits(at_BSD: Tensor) -> Tensor:
        return fusion.logits(fusion.fuse(at_BSD, mask_BS))

    move_BSD = worst(
        lambda at: F.cross_entropy(logits(at), whole.labels_B, reduction="sum"),
        e_BSD, mask_BS, Attack(1.0, 10, 0.2), rng(1),
    )  # fmt: skip
    assert logits(e_BSD).argmax(1).equal(whole.labels_B)
    share = float((logits(e_BSD + move_BSD).argmax(1) == whole.labels_B).float().mean())
    assert share <= right if not more else share == right


def test_hidden_slots_are_a_share_of_the_present_ones_and_never_all_of_a_row() -> None:
    mask_BS = torch.rand(4_000, 3, generator=rng()) < 0.7
    gone_BS = hidden(mask_BS, 0.5, rng(1))
    assert not bool((gone_BS & ~mask_BS).any())
    assert bool((mask_BS & ~gone_BS).any(1)[mask_BS.any(1)].all())
    pairs = mask_BS.sum(1) == 2
    # of two slots one is hidden where the lower draw is below the share: 1 - 0.5²
    assert abs(float(gone_BS[pairs].sum(1).float().mean()) - 0.75) < 0.05


def test_hiding_is_for_training_alone() -> None:
    plain, hiding = make(augment=False), make(augment=False, hide=0.9)
    assert not torch.equal(plain.loss(batch(), rng())["loss"], hiding.loss(batch(), rng())["loss"])
    torch.testing.assert_close(plain.eval().loss(batch(), rng())["loss"], hiding.eval().loss(batch(), rng())["loss"])
