"""Sets of inputs: every single one, every number of inputs before a second of any, and no more than asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmgen.evaluate.subsets import input_subsets


def test_of_two_slots_both_alone_and_both_together() -> None:
    assert input_subsets(["text", "audio"], 12, 0) == [("text",), ("audio",), ("text", "audio")]


def test_a_limit_keeps_single_inputs_and_the_largest_set_first() -> None:
    slots = ["a", "b", "c", "d"]
    assert input_subsets(slots, 0, 0) == [(each,) for each in slots]
    assert input_subsets(slots, 1, 0)[4:] == [("a", "b", "c", "d")]
    assert [len(each) for each in input_subsets(slots, 3, 0)[4:]] == [2, 3, 4]


@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 5))
def test_all_are_different_in_order_and_as_many_as_there_can_be(count: int, larger: int, seed: int) -> None:
    slots = [f"s{place}" for place in range(count)]
    found = input_subsets(slots, larger, seed)
    assert len(set(found)) == len(found) == min(2**count - 1, count + larger)
    assert all(list(each) == sorted(each) and set(each) <= set(slots) for each in found)
    assert found == input_subsets(slots, larger, seed)


def test_many_slots_cost_no_more_than_what_is_asked_for() -> None:
    found = input_subsets([f"s{place:02d}" for place in range(40)], 60, 1)
    assert len(set(found)) == 100
    assert {len(each) for each in found} == set(range(1, 41))
