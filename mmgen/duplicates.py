"""Exact and near duplicates: clusters around an exemplar, never transitive (law 14).

Samples are compared over their media only (text alone never links): equal when every image and audio slot has the same
bytes, near when every one of them is proposed by its 64-bit hash and confirmed by a second measure, the correlation
of 32×32 thumbnails (grey for images, log-spectrogram for audio). Samples with different sets of media never link.

The search is multi-index hashing (Norouzi, Punjani and Fleet, 2012): cut the hash into radius + 1 bands; two hashes
within the radius agree on at least one whole band (pigeonhole), so only equal bands are compared.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HASH_BITS = 64
THUMB_SIDE = 32
#: below this standard deviation (of values in 0..1) a thumbnail is flat and has no correlation
FLAT_STD = 1e-3
#: two flat thumbnails whose means differ by less are the same
SAME_LEVEL = 0.01

Int = npt.NDArray[np.int64]
Hash = npt.NDArray[np.uint64]
Thumb = npt.NDArray[np.float32]

#: (index of the sample, media slot) → (32, 32) values in 0..1, None if it cannot be read
Thumbnails = Callable[[int, int], Thumb | None]


@dataclass(frozen=True, slots=True)
class Duplicates:
    """exemplar_N: for each sample the index of the sample it repeats, itself if none.
    exact_N: it repeats the bytes; near otherwise. similarity_N: the lowest confirming correlation, 1 for exact."""

    exemplar_N: Int
    exact_N: npt.NDArray[np.bool_]
    similarity_N: npt.NDArray[np.float64]


def near_pairs(hashes_N: Hash, radius_bits: int) -> tuple[Int, Int]:
    """All pairs (i < j) whose 64-bit hashes differ in at most `radius_bits` bits, sorted, each once.

    Raises ValueError for a radius outside 0..63.
    """
    if not 0 <= radius_bits < HASH_BITS:
        raise ValueError(f"radius_bits: wanted 0..{HASH_BITS - 1}, came {radius_bits}")
    bands = radius_bits + 1
    edges = [round(band * HASH_BITS / bands) for band in range(bands + 1)]
    found: list[Int] = []
    for low, high in itertools.pairwise(edges):
        mask = np.uint64((1 << (high - low)) - 1)
        found.append(_pairs_of_equal((hashes_N >> np.uint64(low)) & mask, hashes_N, radius_bits))
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64)
    return pairs[:, 0], pairs[:, 1]


def _pairs_of_equal(band_N: Hash, hashes_N: Hash, radius_bits: int) -> Int:
    """Pairs (i < j) of equal band whose whole hashes are within the radius; memory stays O(N) per pass.

    Sorted by band, a bucket is a run; pass d compares each place with the one d further on, while any run goes on.
    """
    # 32 bits number two billion samples, and halve what a pass needs
    order = np.argsort(band_N, kind="stable").astype(np.int32)
    band, hashes = band_N[order], hashes_N[order]
    here = np.arange(len(order), dtype=np.int32)
    found: list[Int] = [np.empty((0, 2), np.int64)]
    step = 1
    while True:
        here = here[here + step < len(order)]
        here = here[band[here] == band[here + step]]
        if not len(here):
            return np.concatenate(found)
        close = here[np.bitwise_count(hashes[here] ^ hashes[here + step]) <= radius_bits]
        pair = np.stack([order[close], order[close + step]], axis=1).astype(np.int64)
        found.append(np.sort(pair, axis=1))
        step += 1


def find_duplicates(
    present_NM: npt.NDArray[np.bool_],
    media_N2: Hash,
    hash_NM: Hash,
    hashed_NM: npt.NDArray[np.bool_],
    *,
    radius_bits: int,
    confirm: float,
    thumbnails: Thumbnails,
) -> Duplicates:
    """Cluster N samples around exemplars: a sample repeats the earliest one that it equals or is confirmed near to.

    The order of the samples is their rank: an exemplar always stands before what repeats it.

    present_NM: which of M media slots a sample has. media_N2: 128 bits of these and of their bytes' digests.
    hash_NM, hashed_NM: the 64-bit hash of each, and whether it has one (a sample without has no near-duplicates).
    thumbnails: asked only for samples that a hash proposes.
    """
    count = len(present_NM)
    exemplar, similarity = np.arange(count), np.ones(count)
    pattern_N = present_NM @ (1 << np.arange(present_NM.shape[1], dtype=np.int64))
    first_N = _first_of_equal(media_N2)
    exact = (first_N != exemplar) & (pattern_N != 0)
    exemplar[exact] = first_N[exact]
    alone = ~exact & (pattern_N != 0) & (hashed_NM | ~present_NM).all(axis=1)
    for pattern in np.unique(pattern_N[alone]).tolist():
        members = np.flatnonzero(alone & (pattern_N == pattern))
        slots = np.flatnonzero(present_NM[members[0]])
        near = _near(hash_NM[np.ix_(members, slots)], members, slots.tolist(), radius_bits, confirm, thumbnails)
        for member, (other, score) in near.items():
            exemplar[member], similarity[member] = other, score
    # what equals a near-duplicate belongs to the near-duplicate's exemplar: its media are the same bytes
    for index in np.flatnonzero(exact).tolist():
        first = int(exemplar[index])
        if exemplar[first] != first:
            exemplar[index], exact[index], similarity[index] = exemplar[first], False, similarity[first]
    return Duplicates(exemplar, exact, similarity)


def _first_of_equal(keys_N2: Hash) -> Int:
    """For each place the first one with the same key."""
    order = np.lexsort((keys_N2[:, 1], keys_N2[:, 0]))
    same = np.zeros(len(order), np.bool_)
    same[1:] = (keys_N2[order[1:]] == keys_N2[order[:-1]]).all(axis=1)
    # lexsort is stable: a run begins with its earliest place
    starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    first_N = np.empty(len(order), np.int64)
    first_N[order] = order[starts]
    return first_N


def _near(
    hashes_NS: Hash, members: Int, slots: Sequence[int], radius_bits: int, confirm: float, thumbnails: Thumbnails
) -> dict[int, tuple[int, float]]:
    """Near-duplicates among samples with the same media slots: sample → (exemplar, similarity)."""
    distinct, place_N = np.unique(hashes_NS, axis=0, return_inverse=True)
    place_N = place_N.reshape(-1)
    neighbours = _neighbours(distinct, radius_bits)
    proposed = np.bincount(place_N, minlength=len(distinct)) > 1
    proposed[list(neighbours)] = True
    shelves: dict[int, _Shelf] = {}
    joined: dict[int, tuple[int, float]] = {}
    for index in np.flatnonzero(proposed[place_N]).tolist():
        member, place = int(members[index]), int(place_N[index])
        found = [thumbnails(member, slot) for slot in slots]
        readable = [each for each in found if each is not None]
        if len(readable) < len(found):
            continue
        mine = _View.of(readable)
        near = (shelves[each].match(mine, confirm) for each in (place, *neighbours.get(place, ())) if each in shelves)
        matches = [match for match in near if match is not None]
        if matches:
            joined[member] = min(matches)
        else:
            shelves.setdefault(place, _Shelf(len(found))).add(member, mine)
    return joined


@dataclass(frozen=True, slots=True)
class _View:
    """A sample's thumbnails, ready to be correlated. unit_SP: centred, of length 1, zero where flat. level_S: means."""

    unit_SP: Thumb
    level_S: npt.NDArray[np.float32]
    flat_S: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, thumbs: Sequence[Thumb]) -> _View:
        values_SP = np.stack([thumb.reshape(-1) for thumb in thumbs]).astype(np.float64)
        level_S = values_SP.mean(axis=1)
        centred_SP = values_SP - level_S[:, None]
        length_S = np.sqrt((centred_SP**2).sum(axis=1))
        flat_S = length_S < FLAT_STD * np.sqrt(values_SP.shape[1])
        unit_SP = np.where(flat_S[:, None], 0.0, centred_SP / np.where(flat_S, 1.0, length_S)[:, None])
        return cls(unit_SP.astype(np.float32), level_S.astype(np.float32), flat_S)


class _Shelf:
    """The exemplars of one hash, in the order they came, side by side in memory."""

    def __init__(self, slots: int) -> None:
        self.members: list[int] = []
        self._unit_ESP = np.zeros((1, slots, THUMB_SIDE**2), np.float32)
        self._level_ES = np.zeros((1, slots), np.float32)
        self._flat_ES = np.zeros((1, slots), np.bool_)

    def add(self, member: int, view: _View) -> None:
        count = len(self.members)
        if count == len(self._unit_ESP):
            # doubling keeps the copies to a few per sample
            self._unit_ESP = np.concatenate([self._unit_ESP, np.zeros_like(self._unit_ESP)])
            self._level_ES = np.concatenate([self._level_ES, np.zeros_like(self._level_ES)])
            self._flat_ES = np.concatenate([self._flat_ES, np.zeros_like(self._flat_ES)])
        self._unit_ESP[count], self._level_ES[count], self._flat_ES[count] = view.unit_SP, view.level_S, view.flat_S
        self.members.append(member)

    def match(self, view: _View, confirm: float) -> tuple[int, float] | None:
        """The earliest exemplar whose every slot correlates at least `confirm` with the view's; the lowest correlation.

        Two flat slots of the same level correlate fully, a flat one with any other not at all.
        """
        count, slots = len(self.members), len(view.level_S)
        scores_ES = np.stack([self._unit_ESP[:count, slot] @ view.unit_SP[slot] for slot in range(slots)], axis=1)
        alike = self._flat_ES[:count] & view.flat_S & (np.abs(self._level_ES[:count] - view.level_S) < SAME_LEVEL)
        scores_E = np.where(alike, 1.0, scores_ES).min(axis=1)
        good = np.flatnonzero(scores_E >= confirm)
        return (self.members[good[0]], min(1.0, float(scores_E[good[0]]))) if len(good) else None


def _neighbours(distinct_NS: Hash, radius_bits: int) -> dict[int, list[int]]:
    """Other distinct hash rows within the radius on every slot. The most varied slot proposes, the others agree."""
    variety = [len(np.unique(distinct_NS[:, slot])) for slot in range(distinct_NS.shape[1])]
    values, place_N = np.unique(distinct_NS[:, int(np.argmax(variety))], return_inverse=True)
    order = np.argsort(place_N.reshape(-1), kind="stable")
    edges = np.searchsorted(place_N.reshape(-1)[order], np.arange(len(values) + 1))
    first, second = near_pairs(values, radius_bits)
    shared = np.flatnonzero(np.diff(edges) > 1)
    found: dict[int, list[int]] = defaultdict(list)
    for one, other in [*zip(first.tolist(), second.tolist(), strict=True), *((each, each) for each in shared.tolist())]:
        rows_a, rows_b = order[edges[one] : edges[one + 1]], order[edges[other] : edges[other + 1]]
        distance = np.bitwise_count(distinct_NS[rows_a][:, None] ^ distinct_NS[rows_b][None]).max(axis=2)
        for a, b in zip(*np.nonzero(distance <= radius_bits), strict=True):
            if rows_a[a] != rows_b[b]:
                found[int(rows_a[a])].append(int(rows_b[b]))
                if one != other:
                    found[int(rows_b[b])].append(int(rows_a[a]))
    return dict(found)
