"""Fusion: any subset of slots, absent slots leave no trace, losses count what is there, and it learns to pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mmgen.batches import Batch
from mmgen.errors import ConfigError
from mmgen.fusion.attack import Attack, worst
from mmgen.fusion.augment import smudge, warp
from mmgen.fusion.config import FusionConfig
from mmgen.fusion.fuse import LowRankFuse
from mmgen.fusion.fusion import Fusion
from mmgen.fusion.table import FUSES, make_fuse, make_fusion

CLASSES, WIDTH = 4, 16
TOKENS = "cross_attention, every token"
WAYS = (*FUSES, TOKENS)


def make(kind: str = "gated", classes: int = CLASSES, **more: Any) -> Fusion:
    torch.manual_seed(0)
    if kind == TOKENS:
        kind, more = "cross_attention", {**more, "tokens": True}
    return make_fusion(
        kind,
        modalities={"question": "text", "picture": "image", "sound": "audio"},
        shapes={"question": (6, 20), "picture": (1, 16, 16), "sound": (16, 16)},
        encoders={"text": "transformer_text", "image": "cnn_image", "audio": "cnn_mel"},
        classes=classes,
        width=WIDTH,
        **more,
    )


def batch(count: int = 8, seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    values = {
        "question": torch.randint(3, 20, (count, 6), generator=rng),
        "picture": torch.randn((count, 1, 16, 16), generator=rng),
        "sound": torch.randn((count, 16, 16), generator=rng),
    }
    masks = {slot: torch.ones(count, 1, dtype=torch.bool) for slot in values}
    labels = torch.arange(count) % CLASSES
    return Batch(values, masks, labels, torch.ones(count), [str(row) for row in range(count)])


def without(whole: Batch, slot: str, rows: slice = slice(None), noise: float = 0.0) -> Batch:
    """`slot` absent in these rows; its value there is whatever `noise` makes it."""
    mask = whole.masks[slot].clone()
    mask[rows] = False
    value = whole.values[slot].clone()
    value[rows] = noise if value.is_floating_point() else 7
    return replace(whole, masks={**whole.masks, slot: mask}, values={**whole.values, slot: value})


@pytest.mark.parametrize("kind", WAYS)
class TestEveryFuse:
    def test_every_subset_has_an_embedding_of_root_mean_square_one(self, kind: str) -> None:
        fusion, whole = make(kind).eval(), batch()
        e_BSD = fusion.slot_embeddings(whole)
        # 16 places of a picture's and of a sound's grid
        assert e_BSD.shape == (8, 3, 16 * WIDTH if kind == TOKENS else WIDTH)
        for bits in range(1, 8):
            mask_BS = torch.tensor([[bool(bits >> slot & 1) for slot in range(3)]]).expand(8, -1)
            e_BD = fusion.fuse(e_BSD, mask_BS)
            torch.testing.assert_close(e_BD.square().mean(1), torch.ones(8))

    def test_an_absent_slot_leaves_no_trace(self, kind: str) -> None:
        fusion, whole = make(kind).eval(), batch()
        one, other = (fusion(without(whole, "sound", noise=noise)) for noise in (0.0, 50.0))
        torch.testing.assert_close(one, other)
        left_out = replace(whole, values={slot: v for slot, v in whole.values.items() if slot != "sound"})
        torch.testing.assert_close(one, fusion(left_out))
        assert not torch.allclose(one, fusion(whole))

    def test_a_row_does_not_depend_on_the_rows_beside_it(self, kind: str) -> None:
        fusion, whole = make(kind).eval(), batch()
        torch.testing.assert_close(fusion(whole)[:3], fusion(whole.rows(0, 3)), atol=1e-5, rtol=1e-4)

    def test_it_learns_which_values_belong_together_and_their_class(self, kind: str) -> None:
        fusion, whole = make(kind, augment=False), batch()
        optimiser = torch.optim.Adam(fusion.parameters(), lr=3e-3)
        for step in range(80):
            optimiser.zero_grad()
            fusion.loss(whole, torch.Generator().manual_seed(step))["loss"].backward()
            optimiser.step()
        fusion.eval()
        assert fusion.logits(fusion(whole)).argmax(1).equal(whole.labels_B)
        picture, sound = (fusion(without(without(whole, "question"), slot)) for slot in ("sound", "picture"))
        assert (picture @ sound.T).argmax(1).equal(torch.arange(8))


def test_without_labels_there_is_no_head_and_the_loss_is_contrastive_alone() -> None:
    fusion = make(classes=0)
    found = fusion.loss(batch(), torch.Generator().manual_seed(0))
    assert set(found) == {"loss", "contrastive"}
    with pytest.raises(ConfigError, match="without labels"):
        fusion.logits(torch.zeros(1, WIDTH))


def test_rows_without_a_label_or_of_weight_0_count_nothing() -> None:
    fusion, whole = make(augment=False), batch()
    weights_B = torch.ones(8)
    weights_B[4:] = 0

    def loss(of: Batch) -> dict[str, Tensor]:
        return fusion.loss(of, torch.Generator().manual_seed(0))

    padded = replace(whole, weights_B=weights_B)
    other = {slot: torch.cat([value[:4], value[:4].flip(0)]) for slot, value in whole.values.items()}
    torch.testing.assert_close(loss(padded)["loss"], loss(replace(padded, values=other))["loss"])
    unlabelled = loss(replace(whole, labels_B=torch.full((8,), -1)))
    assert float(unlabelled["label"]) == 0.0
    assert float(unlabelled["contrastive"]) > 0


def test_a_batch_in_which_nothing_pairs_gives_a_finite_gradient() -> None:
    fusion, whole = make(), batch()
    alone = without(without(whole, "picture"), "sound")
    found = fusion.loss(replace(alone, labels_B=torch.full((8,), -1)), torch.Generator().manual_seed(0))
    found["loss"].backward()
    gradients = [weight.grad for weight in fusion.parameters() if weight.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_disturbances_keep_the_shape_and_follow_the_seed() -> None:
    images, sounds = torch.rand(4, 1, 16, 16), torch.rand(4, 16, 24)
    for disturb, value in ((warp, images), (smudge, sounds)):
        one, same, other = (disturb(value, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert one.shape == value.shape
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        assert not torch.equal(one, value)


def test_an_unknown_fusion_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gated'"):
        make("gates")


@pytest.mark.parametrize("kind", FUSES)
def test_a_way_to_fuse_never_looks_at_what_its_mask_hides(kind: str) -> None:
    """By itself: a fusion model hides slots that a sample has, and its encoders see nothing of that."""
    torch.manual_seed(0)
    fuse = make_fuse(kind, 3, WIDTH, rank=2, bottlenecks=2, depth=2).eval()
    with torch.no_grad():
        for weight in fuse.parameters():
            weight.normal_(std=0.3)
    e_BSD = torch.randn(8, 3, WIDTH)
    mask_BS = torch.tensor([[bool(bits >> slot & 1) for slot in range(3)] for bits in range(8)])
    other_BSD = torch.where(mask_BS[..., None], e_BSD, 9.0)
    torch.testing.assert_close(fuse(e_BSD, mask_BS), fuse(other_BSD, mask_BS))
    # each of the eight subsets is another one
    assert len(fuse(e_BSD[:1].expand(8, -1, -1), mask_BS).round(decimals=4).unique(dim=0)) == 8


def test_a_token_that_holds_nothing_is_not_looked_at() -> None:
    fusion, whole = make(TOKENS).eval(), batch()
    short = whole.values["question"].clone()
    short[:, 3:] = 0
    question = fusion.slot_embeddings(replace(whole, values={**whole.values, "question": short}))[:, 0]
    tokens_BTD = question.unflatten(1, (16, WIDTH))
    assert tokens_BTD.any(-1).sum(1).tolist() == [3] * 8
    # a longer text than any slot has room for would change nothing either
    alone = torch.tensor([[True]]).expand(8, -1)
    fuse = make_fuse("cross_attention", 1, WIDTH, rank=1, bottlenecks=2, depth=2).eval()
    longer = torch.nn.functional.pad(tokens_BTD, (0, 0, 0, 5)).flatten(1)[:, None]
    torch.testing.assert_close(fuse(question[:, None], alone), fuse(longer, alone))


def test_an_attack_moves_no_token_that_holds_nothing() -> None:
    fusion, whole = (
        make(TOKENS, augment=False, adversarial={"epsilon": 0.1, "steps": 2, "rate": 0.05, "weight": 1.0}),
        batch(),
    )
    e_BSN = fusion.slot_embeddings(without(whole, "sound", slice(0, 4)))
    move_BSN = worst(lambda e: e.square().sum(), e_BSN, fusion.mask(whole), Attack(0.1, 2, 0.05))
    assert bool((move_BSN[e_BSN == 0] == 0).all())
    assert float((move_BSN[e_BSN != 0] != 0).float().mean()) > 0.9
    assert "adversarial" in fusion.loss(whole, torch.Generator().manual_seed(0))


def test_only_cross_attention_takes_tokens() -> None:
    with pytest.raises(ValidationError, match="tokens: wanted kind cross_attention"):
        FusionConfig(kind="concat", tokens=True)


def test_an_absent_slot_is_the_identity_of_the_low_rank_product() -> None:
    torch.manual_seed(0)
    three, two = LowRankFuse(3, WIDTH, rank=2).eval(), LowRankFuse(2, WIDTH, rank=2).eval()
    with torch.no_grad():
        three.offsets.normal_()
        shared = {
            name: weight[:2] if name in ("factors", "offsets") else weight
            for name, weight in three.state_dict().items()
        }
    two.load_state_dict(shared)
    e_BSD, mask_BS = torch.randn(4, 3, WIDTH), torch.tensor([True, True, False]).expand(4, -1)
    torch.testing.assert_close(three(e_BSD, mask_BS), two(e_BSD[:, :2], mask_BS[:, :2]))
