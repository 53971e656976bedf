"""Recall of the condition among a hundred."""

from __future__ import annotations

import pytest
import torch

from mmgen.evaluate.retrieval import groups, recall_at, recall_at_1


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_equals_its_condition_is_always_found() -> None:
    given = torch.randn(150, 16, generator=rng())
    assert recall_at_1(given, given, rng()).value == 1.0


def test_what_has_nothing_to_do_with_its_condition_is_found_by_chance_alone() -> None:
    made, given = torch.randn(1_000, 16, generator=rng(1)), torch.randn(1_000, 16, generator=rng(2))
    found = recall_at_1(made, given, rng())
    assert found.low <= 0.01 <= found.high


def test_a_collapsed_generator_finds_at_most_one_of_a_hundred() -> None:
    given = torch.randn(500, 16, generator=rng(1))
    assert recall_at_1(given[:1].expand(500, -1), given, rng()).value < 0.03


def test_equal_conditions_are_no_distractors_but_a_tie_with_another_is_a_miss() -> None:
    given = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert recall_at_1(given, given, rng()).value == 1.0
    between = torch.tensor([[1.0, 1.0]]).expand(3, -1)
    assert recall_at_1(between, given, rng()).value == 0.0


def test_the_draw_of_distractors_depends_on_the_generator_alone() -> None:
    made, given = torch.randn(300, 4, generator=rng(1)), torch.randn(300, 4, generator=rng(2))
    mixed = made + 2 * given
    assert recall_at_1(mixed, given, rng(5)) == recall_at_1(mixed, given, rng(5))
    assert recall_at_1(mixed, given, rng(5), among=300).value < recall_at_1(mixed, given, rng(5), among=5).value


def test_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="N ≥ 2"):
        recall_at_1(torch.ones(1, 4), torch.ones(1, 4), rng())


def test_recall_among_all_of_a_known_order() -> None:
    """Queries on a circle whose partners are turned by 0.6 steps: one other is nearer to each, then the own one."""
    n = 60
    angles = torch.arange(n) * (2 * torch.pi / n)
    query = torch.stack([angles.cos(), angles.sin()], 1)
    turned = angles + 0.6 * (2 * torch.pi / n)
    gallery = torch.stack([turned.cos(), turned.sin()], 1)
    found = recall_at(query, gallery, (1, 2, 5))
    assert {k: each.value for k, each in found.recall.items()} == {1: 0.0, 2: 1.0, 5: 1.0}
    assert found.gallery == n
    assert found.chance[5] == pytest.approx(5 / n)


def test_what_equals_the_own_partner_is_as_right_and_leaves_the_gallery_smaller() -> None:
    texts = torch.randn(10, 8, generator=rng()).repeat_interleave(6, 0)
    images = texts + 0.01 * torch.randn(60, 8, generator=rng(1))
    same = [groups([images]), groups([texts])]
    assert [len(each.unique()) for each in same] == [60, 10]
    found = recall_at(images, texts, (1,), same)
    assert found.recall[1].value == 1.0
    assert found.gallery == 55
    assert found.chance[1] == pytest.approx(1 / 55)
    # as if they were not told to be equal: ties, all of them
    assert recall_at(images, texts, (1,)).recall[1].value == 0.0


def test_rows_are_equal_where_all_of_their_values_are() -> None:
    one, other = torch.tensor([[1], [1], [2], [2]]), torch.tensor([[[5.0]], [[6.0]], [[5.0]], [[5.0]]])
    found = groups([one, other])
    assert len(found.unique()) == 3
    assert found[2] == found[3]


def test_a_space_that_collapsed_finds_nothing() -> None:
    query = torch.randn(40, 8, generator=rng())
    assert recall_at(query, torch.ones(40, 8), (1, 10)).recall[10].value == 0.0
    assert recall_at(torch.ones(40, 8), query, (1,)).recall[1].value <= 1 / 40


def test_unrelated_rows_are_found_by_chance() -> None:
    one, other = torch.randn(700, 16, generator=rng(1)), torch.randn(700, 16, generator=rng(2))
    found = recall_at(one, other)
    for rank in (1, 5, 10):
        assert found.recall[rank].low <= found.chance[rank] <= found.recall[rank].high
