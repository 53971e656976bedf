"""Recall of the condition among a hundred."""

from __future__ import annotations

import pytest
import torch

from mmgen.evaluate.retrieval import recall_at_1


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
