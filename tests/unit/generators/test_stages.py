"""The order in which slots are made: all that is asked for, once, from what it was seen with."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from mmgen.generators.stages import Pairs, Stage, stages

SLOTS = ("audio", "image", "text", "video", "words")


def pairs(*words: str) -> Pairs:
    return frozenset(frozenset(word.split("-")) for word in words)


ALL = frozenset(frozenset(pair) for pair in combinations(SLOTS, 2))
DISJOINT = pairs("text-image", "text-audio")


@pytest.mark.parametrize(
    ("given", "to", "seen", "wanted"),
    [
        (("text",), ("image", "audio"), ALL, [Stage(("image", "audio"), ("text",))]),
        ((), ("image", "audio"), ALL, [Stage(("image", "audio"), ())]),
        (("text", "image"), ("audio",), ALL, [Stage(("audio",), ("text", "image"))]),
        (("image",), ("audio",), DISJOINT, [Stage(("text",), ("image",)), Stage(("audio",), ("text",))]),
        (("image",), ("text", "audio"), DISJOINT, [Stage(("text",), ("image",)), Stage(("audio",), ("text",))]),
        (("text",), ("image", "audio"), DISJOINT, [Stage(("image",), ("text",)), Stage(("audio",), ("text",))]),
        (("text", "image"), ("audio",), DISJOINT, [Stage(("audio",), ("text",))]),
        ((), ("audio", "image"), DISJOINT, [
            Stage(("audio",), ()), Stage(("text",), ("audio",)), Stage(("image",), ("text",))]),
        ((), ("audio", "image", "text"), DISJOINT, [
            Stage(("text", "audio"), ()), Stage(("image",), ("text",))]),
        (("words",), ("image",), DISJOINT, [Stage(("image",), ())]),
    ],
)  # fmt: skip
def test_the_order_follows_from_what_was_seen_together(
    given: tuple[str, ...], to: tuple[str, ...], seen: Pairs, wanted: list[Stage]
) -> None:
    assert stages(given, to, seen, SLOTS) == wanted


@drawn(
    st.sets(st.sampled_from(SLOTS)), st.lists(st.sampled_from(SLOTS), min_size=1, unique=True),
    st.sets(st.sampled_from(sorted(map(tuple, map(sorted, ALL))))),
)  # fmt: skip
def test_what_is_asked_for_is_made_once_and_from_what_is_there(
    given: set[str], to: list[str], seen: set[tuple[str, str]]
) -> None:
    linked = frozenset(frozenset(pair) for pair in seen)
    source = sorted(given - set(to))
    found = stages(source, to, linked, SLOTS)
    made = [slot for stage in found for slot in stage.to]
    assert len(made) == len(set(made))
    assert set(to) <= set(made)
    known = set(source)
    for stage in found:
        assert set(stage.given) <= known
        assert all(frozenset((slot, other)) in linked for slot in stage.to for other in stage.given)
        assert all(frozenset(pair) in linked for pair in combinations(stage.to, 2))
        known |= set(stage.to)
