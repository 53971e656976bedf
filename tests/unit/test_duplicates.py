"""Near-duplicates: a hash proposes by an index, a second measure confirms, clusters never chain."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgen.duplicates import Duplicates, find_duplicates, near_pairs

RNG = np.random.default_rng(0)


def brute(hashes: list[int], radius: int) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= radius
    }


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=9)), max_size=12),
    st.integers(0, 12),
)
def test_the_index_finds_exactly_what_comparing_all_pairs_finds(
    seeds: list[int], flips: list[tuple[int, set[int]]], radius: int
) -> None:
    near = [seeds[which % len(seeds)] ^ sum(1 << bit for bit in bits) for which, bits in flips if seeds]
    hashes = seeds + near
    first, second = near_pairs(np.array(hashes, np.uint64), radius)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == sorted(brute(hashes, radius))


def test_a_radius_beyond_the_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="radius_bits"):
        near_pairs(np.zeros(2, np.uint64), 64)


def test_the_index_compares_far_fewer_pairs_than_there_are() -> None:
    """200,000 hashes have 2·10^10 pairs: only an index answers in seconds."""
    hashes = RNG.integers(0, 2**63, 200_000, dtype=np.uint64)
    hashes[1] = hashes[0] ^ np.uint64(0b1011)
    started = time.perf_counter()
    first, second = near_pairs(hashes, 3)
    assert (0, 1) in set(zip(first.tolist(), second.tolist(), strict=True))
    assert time.perf_counter() - started < 20


def search(
    digests: list[tuple[str, ...]],
    thumbs: dict[int, list[np.ndarray | None]],
    hashes: list[tuple[int | None, ...]],
    *,
    media: list[tuple[str, ...]] | None = None,
) -> Duplicates:
    names = ("image", "audio")
    media = media or [names[: len(each)] for each in digests]
    shape = (len(digests), len(names))
    present, hashed = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    digest, value = np.zeros((len(digests), 2), np.uint64), np.zeros(shape, np.uint64)
    for index, mine in enumerate(media):
        for slot, sha, perceptual in zip(mine, digests[index], hashes[index], strict=True):
            at = names.index(slot)
            present[index, at], hashed[index, at] = True, perceptual is not None
            value[index, at] = perceptual or 0
            digest[index] = digest[index] * np.uint64(2**16) + np.array([ord(sha), at], np.uint64)
    return find_duplicates(
        present, digest, value, hashed, radius_bits=6, confirm=0.98,
        thumbnails=lambda index, slot: thumbs[index][slot],
    )  # fmt: skip


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def texture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((32, 32), dtype=np.float32)


def test_equal_bytes_are_exact_without_looking_at_any_picture() -> None:
    found = search([("a",), ("b",), ("a",)], {}, [(None,), (None,), (None,)])
    assert found.exemplar_N.tolist() == [0, 1, 0]
    assert found.exact_N.tolist() == [False, False, True]


def test_a_hash_alone_never_makes_a_duplicate() -> None:
    found = search([("a",), ("b",)], {0: [texture(0)], 1: [texture(1)]}, [(5,), (5,)])
    assert found.exemplar_N.tolist() == [0, 1]


def test_a_confirmed_proposal_is_near_and_says_how_similar() -> None:
    noisy = texture(0) + 0.01 * texture(1)
    found = search([("a",), ("b",)], {0: [texture(0)], 1: [noisy]}, [(0b111,), (0b001,)])
    assert found.exemplar_N.tolist() == [0, 0]
    assert not found.exact_N[1]
    assert 0.98 <= found.similarity_N[1] < 1


def test_hashes_beyond_the_radius_are_not_even_looked_at() -> None:
    found = search([("a",), ("b",)], {}, [(0,), (0b1111111,)])
    assert found.exemplar_N.tolist() == [0, 1]


def test_every_media_slot_must_agree() -> None:
    same, other = texture(0), texture(1)
    thumbs: dict[int, list[np.ndarray | None]] = {0: [same, same], 1: [same, other], 2: [same, same]}
    digests = [("a", "x"), ("a", "y"), ("a", "z")]
    found = search(digests, thumbs, [(1, 1), (1, 1), (1, 1)])
    assert found.exemplar_N.tolist() == [0, 1, 0]
    far = search(digests[:2], {}, [(1, 0), (1, 2**64 - 1)])
    assert far.exemplar_N.tolist() == [0, 1]


def test_samples_with_other_sets_of_media_do_not_link() -> None:
    found = search([("a", "x"), ("a",)], {}, [(1, 1), (1,)], media=[("image", "audio"), ("image",)])
    assert found.exemplar_N.tolist() == [0, 1]


def test_text_alone_never_links() -> None:
    found = search([(), ()], {}, [(), ()], media=[(), ()])
    assert found.exemplar_N.tolist() == [0, 1]


def test_clusters_are_around_an_exemplar_and_never_chain() -> None:
    """A ~ B and B ~ C but not A ~ C: C must not follow B into A's cluster."""
    a, c = texture(0), texture(1)
    mixes = [a, 0.885 * a + 0.115 * c, 0.77 * a + 0.23 * c]
    assert correlation(mixes[0], mixes[1]) >= 0.98
    assert correlation(mixes[1], mixes[2]) >= 0.98
    assert correlation(mixes[0], mixes[2]) < 0.98
    found = search([("a",), ("b",), ("c",)], {i: [mix] for i, mix in enumerate(mixes)}, [(0,), (0,), (0,)])
    assert found.exemplar_N.tolist() == [0, 0, 2]


def test_a_copy_of_a_near_duplicate_belongs_to_the_same_exemplar() -> None:
    thumbs: dict[int, list[np.ndarray | None]] = {0: [texture(0)], 1: [texture(0)]}
    found = search([("a",), ("b",), ("b",)], thumbs, [(0,), (0,), (0,)])
    assert found.exemplar_N.tolist() == [0, 0, 0]


def test_unreadable_media_have_no_near_duplicates() -> None:
    found = search([("a",), ("b",)], {0: [texture(0)], 1: [None]}, [(0,), (0,)])
    assert found.exemplar_N.tolist() == [0, 1]


def test_flat_pictures_match_only_flat_ones_of_the_same_level() -> None:
    flat = np.full((32, 32), 0.5, np.float32)
    thumbs: dict[int, list[np.ndarray | None]] = {0: [flat], 1: [flat + 0.2], 2: [texture(0)], 3: [flat + 0.001]}
    found = search([(chr(65 + index),) for index in range(4)], thumbs, [(0,)] * 4)
    assert found.exemplar_N.tolist() == [0, 1, 2, 0]


def test_a_crowd_of_equal_hashes_is_searched_in_reasonable_time() -> None:
    """Blank-like pictures all hash alike; none of these are near."""
    count = 1_500
    thumbs = {index: [texture(index)] for index in range(count)}
    started = time.perf_counter()
    found = search([(chr(65 + index),) for index in range(count)], thumbs, [(0,)] * count)
    assert (found.exemplar_N == np.arange(count)).all()
    assert time.perf_counter() - started < 20
