"""In which order slots are made when some of them were never seen together: what has no pair goes through one that has.

A network that has only seen text with images and text with sounds knows nothing of images with sounds: a sound for an
image is then made for a text that is made for the image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

#: unordered pairs of slots that some training sample had both of
Pairs = frozenset[frozenset[str]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Slots that are made together, and the slots that they are made from."""

    to: tuple[str, ...]
    given: tuple[str, ...]


def stages(given: Collection[str], to: Sequence[str], pairs: Pairs, slots: Sequence[str]) -> list[Stage]:
    """One stage where all slots concerned were seen together; else as many as it takes, each on what it knows.

    slots: all that can be made on the way. A slot that is linked to nothing known is made from nothing, with the slots
    that it was seen with. Slots that are made on the way and not asked for are stages too.
    """
    known, pending, found = list(given), list(to), []
    while pending:
        ready = [slot for slot in pending if _seen_with(slot, known, pairs)]
        if not ready and known:
            path = _path(known, pending, pairs, slots)
            # the last of the path is asked for: it is ready once the others are made
            ready = path[:1] or pending[:1]
        elif not ready:
            ready = sorted(pending, key=lambda slot: (-len(_seen_with(slot, pending, pairs)), pending.index(slot)))
        first = ready[0]
        basis = _seen_with(first, known, pairs)
        # those that may be made at once: seen with each other, and made from the same
        together = [first]
        for slot in ready[1:]:
            alike = _seen_with(slot, known, pairs) == basis
            if alike and len(_seen_with(slot, together, pairs)) == len(together):
                together.append(slot)
        found.append(Stage(tuple(together), tuple(basis)))
        known += together
        pending = [slot for slot in pending if slot not in together]
    return found


def _seen_with(slot: str, others: Collection[str], pairs: Pairs) -> list[str]:
    return [other for other in others if other != slot and frozenset((slot, other)) in pairs]


def _path(known: Sequence[str], wanted: Collection[str], pairs: Pairs, slots: Sequence[str]) -> list[str]:
    """The shortest chain of slots from what is known to one that is wanted, without its start; empty if none leads."""
    came: dict[str, str | None] = dict.fromkeys(known)
    edge = list(known)
    while edge:
        after = []
        for here in edge:
            for slot in slots:
                if slot not in came and frozenset((here, slot)) in pairs:
                    came[slot] = here
                    after.append(slot)
        for slot in after:
            if slot in wanted:
                chain = [slot]
                while (before := came[chain[-1]]) is not None:
                    chain.append(before)
                return chain[-2::-1]
        edge = after
    return []
