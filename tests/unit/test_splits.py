"""Splits: what rules a sample's split, strongest first, and what happens to one that links two (law 13)."""

from __future__ import annotations

import random
from collections import Counter

from mmgen.splits import Member, assign, by_hash, hashed

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def member(
    key: str,
    at: int,
    *,
    group: str | None = None,
    own: str | None = None,
    kept: str | None = None,
    like: int | None = None,
) -> Member:
    return Member(key, group, own, kept, at if like is None else like)


def splits(members: list[Member], seed: int = 0) -> list[str | None]:
    return [placement.split for placement in assign(members, SHARES, seed)]


def test_many_samples_meet_the_shares() -> None:
    count = Counter(splits([member(f"k{at}", at) for at in range(5_000)]))
    assert abs(count["train"] / 5_000 - 0.8) < 0.02
    assert abs(count["test"] / 5_000 - 0.1) < 0.02


def test_a_hash_is_the_same_on_every_machine() -> None:
    assert hashed("digit-0001", 0) == 0.005975004800113483
    assert by_hash("digit-0001", SHARES, 0) == "train"


def test_row_order_does_not_enter() -> None:
    keys = [f"k{at}" for at in range(40)]
    one = dict(zip(keys, splits([member(key, at) for at, key in enumerate(keys)]), strict=True))
    mixed = random.Random(1).sample(keys, len(keys))
    other = dict(zip(mixed, splits([member(key, at) for at, key in enumerate(mixed)]), strict=True))
    assert one == other


def test_few_samples_fill_every_split() -> None:
    assert Counter(splits([member(f"k{at}", at) for at in range(50)])) == {"train": 40, "validation": 5, "test": 5}
    assert set(splits([member(f"k{at}", at) for at in range(3)])) == set(SHARES)


def test_a_group_never_parts() -> None:
    members = [member(f"k{at}", at, group=f"g{at % 300}") for at in range(1_200)]
    placed = assign(members, SHARES, 0)
    of: dict[str | None, set[str | None]] = {}
    for each, placement in zip(members, placed, strict=True):
        of.setdefault(each.group, set()).add(placement.split)
    assert all(len(found) == 1 for found in of.values())


def test_few_groups_are_dealt_to_the_shares_and_every_split_has_one() -> None:
    members = [member(f"k{at}", at, group=f"speaker{at % 16}") for at in range(1_600)]
    placed = splits(members)
    count = Counter(placed)
    assert set(count) == set(SHARES)
    assert 0.7 <= count["train"] / 1_600 <= 0.9
    three = splits([member(f"k{at}", at, group=f"g{at % 3}") for at in range(30)])
    assert Counter(three) == {"train": 10, "validation": 10, "test": 10}


def test_a_key_keeps_its_split_from_the_base() -> None:
    assert splits([member("a", 0, kept="test"), member("b", 1, kept="train")]) == ["test", "train"]


def test_a_new_sample_takes_the_split_of_its_group() -> None:
    members = [member("old", 0, group="g", kept="test"), *(member(f"k{at}", at, group="g") for at in range(1, 20))]
    assert set(splits(members)) == {"test"}


def test_a_new_sample_takes_the_split_of_what_it_repeats() -> None:
    members = [member("old", 0, kept="validation"), *(member(f"k{at}", at, like=0) for at in range(1, 20))]
    assert set(splits(members)) == {"validation"}


def test_a_sample_that_links_two_splits_gets_none() -> None:
    members = [
        member("a", 0, kept="train"), member("b", 1, group="g", kept="test"), member("c", 2, group="g", like=0),
    ]  # fmt: skip
    placed = assign(members, SHARES, 0)
    assert [placement.split for placement in placed] == ["train", "test", None]
    assert set(placed[2].bridges or ()) == {"train", "test"}


def test_an_ungrouped_exemplar_joins_the_group_that_repeats_it() -> None:
    members = [
        member("a", 0),
        member("b", 1, group="g", like=0),
        *(member(f"k{at}", at, group="g") for at in range(2, 9)),
    ]
    assert None not in splits(members)
    assert len(set(splits(members))) == 1


def test_the_users_split_rules_over_the_base() -> None:
    assert splits([member("a", 0, own="test", kept="train")]) == ["test"]


def test_the_users_split_is_checked_against_groups() -> None:
    members = [
        member("a", 0, group="g", own="train"),
        member("b", 1, group="g", own="train"),
        member("c", 2, group="g", own="test"),
    ]
    assert splits(members) == ["train", "train", None]


def test_held_out_samples_leave_the_rest_of_their_group_where_it_is() -> None:
    members = [member("a", 0, group="g", own="heldout"), member("b", 1, group="g"), member("c", 2, group="g")]
    placed = splits(members)
    assert placed[0] is None
    assert placed[1] == placed[2] is not None
    assert (
        splits([member("a", 0, group="g", own="heldout"), member("b", 1, group="g", own="heldout")]) == ["heldout"] * 2
    )


def test_adding_samples_moves_nobody() -> None:
    first = [member(f"k{at}", at) for at in range(60)]
    before = dict(zip((each.key for each in first), splits(first), strict=True))
    more = [member(f"k{at}", at, kept=before.get(f"k{at}")) for at in range(400)]
    after = dict(zip((each.key for each in more), splits(more), strict=True))
    assert all(after[key] == split for key, split in before.items())


def test_what_repeats_a_dropped_exemplar_stays_in_one_split() -> None:
    """The exemplar links two splits and goes; two that repeat it, in groups of other splits, repeat each other."""
    members = [
        member("e", 0, group="g", own="validation"), member("g1", 1, group="g", own="test"),
        member("g2", 2, group="g", own="test"), member("b", 3, group="h", own="train", like=0),
        member("h", 4, group="h", own="train"), member("c", 5, group="k", own="test", like=0),
        member("k", 6, group="k", own="test"),
    ]  # fmt: skip
    assert splits(members) == [None, "test", "test", "train", "train", None, "test"]
