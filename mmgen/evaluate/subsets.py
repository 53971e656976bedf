"""Which sets of inputs a slot is made from: all single ones, and larger ones as far as they are asked for."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence


def input_subsets(slots: Sequence[str], larger: int, seed: int) -> list[tuple[str, ...]]:
    """Non-empty subsets of `slots`, each in their order: every single one, then at most `larger` others.

    Sizes take turns, the largest first, so that every number of inputs is there before any has a second set; which of
    a size come first is drawn with `seed`.
    """
    order = {slot: place for place, slot in enumerate(slots)}
    sizes = [_drawn(slots, size, larger, seed) for size in range(len(slots), 1, -1)]
    turns = [each for turn in itertools.zip_longest(*sizes) for each in turn if each is not None]
    chosen = sorted(turns[:larger], key=lambda each: (len(each), [order[slot] for slot in each]))
    return [*((slot,) for slot in slots), *chosen]


def _drawn(slots: Sequence[str], size: int, limit: int, seed: int) -> list[tuple[str, ...]]:
    """At most `limit` different subsets of one size."""
    rng = random.Random(f"{seed} {size}")
    if math.comb(len(slots), size) <= max(limit, 1_000):
        every = list(itertools.combinations(slots, size))
        rng.shuffle(every)
        return every[:limit]
    found: dict[tuple[str, ...], None] = {}
    while len(found) < limit:
        places = sorted(rng.sample(range(len(slots)), size))
        found[tuple(slots[place] for place in places)] = None
    return list(found)
