"""Batches become a bounded number of tasks, in order, whatever their number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.batches import TASKS_PER_MAP, bundles


@given(st.integers(0, 500), st.integers(1, TASKS_PER_MAP))
def test_bundles_keep_every_batch_in_order(count: int, most: int) -> None:
    arguments = [(number,) for number in range(count)]
    cut = bundles(arguments, most)
    assert [each for bundle in cut for each in bundle] == arguments
    assert len(cut) == min(most, count)


@given(st.integers(1, 5000))
def test_bundles_are_of_nearly_one_size(count: int) -> None:
    sizes = {len(bundle) for bundle in bundles([(number,) for number in range(count)])}
    assert max(sizes) - min(sizes) <= 1
