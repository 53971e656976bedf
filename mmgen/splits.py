"""Which split a sample belongs to (law 13). Pure functions of keys, groups and links; no row order enters.

What rules, strongest first: the user's own split column, the held-out values, the base version's split of the same key,
the split of what the sample links to (its group, the exemplar it repeats), a hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: with fewer units than this a hash misses the shares: they are dealt out instead
FEW_UNITS = 100
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Member:
    """A sample as the splits see it.

    own: a split that is given (the user's column, held out). kept: the base version's.
    exemplar: index of the sample that it repeats, its own index if none."""

    key: str
    group: str | None
    own: str | None
    kept: str | None
    exemplar: int


@dataclass(frozen=True, slots=True)
class Placement:
    """split: None if the sample links two splits; then `bridges` names both."""

    split: str | None
    bridges: tuple[str, str] | None = None


def hashed(name: str, seed: int) -> float:
    """A number in [0, 1) from a name: the same on every machine, at any row order."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def by_hash(name: str, shares: Mapping[str, float], seed: int) -> str:
    """The split in whose share the hash of `name` falls; shares are taken in the order train, validation, test."""
    place, edge = hashed(name, seed), 0.0
    last = ""
    for split in sorted(shares, key=SPLITS.index):
        if shares[split] <= 0:
            continue
        edge, last = edge + shares[split], split
        if place < edge:
            return split
    return last


def deal(
    sizes: Mapping[tuple[str, str], int],
    shares: Mapping[str, float],
    seed: int,
    held: Mapping[tuple[str, str], str],
) -> dict[tuple[str, str], str]:
    """Deal few units out: in the order of their hash, each goes to the split that is furthest below its share.

    The last units go to splits that have none yet, so each split has at least one as long as there are units.
    sizes: samples per unit. held: units that have a split already. Returns the splits of the others.
    """
    wanted = {split: share for split, share in shares.items() if share > 0}
    total = sum(size for unit, size in sizes.items() if unit not in held or held[unit] in wanted)
    filled: Counter[str] = Counter()
    for unit, split in held.items():
        filled[split] += sizes[unit]
    dealt: dict[tuple[str, str], str] = {}
    free = sorted((unit for unit in sizes if unit not in held), key=lambda unit: (hashed(unit[1], seed), unit))
    for place, unit in enumerate(free):
        empty = [split for split in wanted if not filled[split]]
        candidates = empty if empty and len(free) - place <= len(empty) else list(wanted)
        split = max(candidates, key=lambda each: (wanted[each] * total - filled[each], wanted[each], each))
        dealt[unit] = split
        filled[split] += sizes[unit]
    return dealt


def assign(members: Sequence[Member], shares: Mapping[str, float], seed: int, *, alone: int = 0) -> list[Placement]:
    """A placement per member. An exemplar must stand before what repeats it.

    alone: how many more samples there are that nothing links to others; they count as units and are placed elsewhere.

    Members of one unit (a group; else the exemplar's unit; else the sample alone) share a split. A sample that is
    linked to two splits gets none: the caller drops it as `bridges_splits`.
    """
    units = _units(members)
    splits = _unit_splits(members, units, shares, seed, alone)
    placed: list[Placement] = []
    # exemplar → the split of the first of its cluster that has one: of itself, else of what repeats it
    cluster: dict[int, str] = {}
    for index, member in enumerate(members):
        split = splits[units[index]]
        fixed = member.own or member.kept or split
        repeated = cluster.get(member.exemplar)
        other = next((each for each in (split, repeated) if each is not None and each != fixed), None)
        placed.append(Placement(fixed) if other is None else Placement(None, (fixed, other)))
        if other is None:
            cluster.setdefault(member.exemplar, fixed)
    return placed


def _units(members: Sequence[Member]) -> list[tuple[str, str]]:
    """("group", name) or ("key", key) per member.

    An exemplar without group and split joins the group of the first sample that repeats it, so no bridge is needed.
    """
    lent: dict[int, str] = {}
    for index, member in enumerate(members):
        exemplar = members[member.exemplar]
        free = exemplar.group is None and exemplar.own is None and exemplar.kept is None
        if member.exemplar != index and member.group is not None and free:
            lent.setdefault(member.exemplar, member.group)
    units: list[tuple[str, str]] = []
    for index, member in enumerate(members):
        group = member.group if member.group is not None else lent.get(index)
        if group is not None:
            units.append(("group", group))
        else:
            units.append(("key", member.key) if member.exemplar == index else units[member.exemplar])
    return units


def _unit_splits(
    members: Sequence[Member], units: Sequence[tuple[str, str]], shares: Mapping[str, float], seed: int, alone: int
) -> dict[tuple[str, str], str]:
    """The split of every unit: what its placed samples say, else dealt out where there are few, else by hash."""
    sizes = Counter(units)
    votes: dict[tuple[str, str], list[tuple[bool, str]]] = {}
    for member, unit in zip(members, units, strict=True):
        if (fixed := member.own or member.kept) is not None:
            votes.setdefault(unit, []).append((member.kept is not None, fixed))
    held: dict[tuple[str, str], str] = {}
    for unit, cast in votes.items():
        standard = [vote for vote in cast if vote[1] in SPLITS]
        # a unit that is only partly held out stays where its other samples are
        if not standard and len(cast) < sizes[unit]:
            continue
        counts = Counter(standard or cast)
        held[unit] = max(standard or cast, key=lambda vote: (vote[0], counts[vote]))[1]
    groups = {unit: size for unit, size in sizes.items() if unit[0] == "group"}
    few = sizes if len(sizes) + alone < FEW_UNITS else groups if len(groups) < FEW_UNITS else {}
    dealt = deal(few, shares, seed, {unit: split for unit, split in held.items() if unit in few})
    free = (unit for unit in sizes if unit not in held and unit not in dealt)
    return held | dealt | {unit: by_hash(unit[1], shares, seed) for unit in free}
