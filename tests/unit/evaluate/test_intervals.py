"""Wilson's interval, and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen.evaluate.intervals import bootstrap, mean_of_samples, wilson


def test_wilson_gives_the_published_values() -> None:
    # Newcombe 1998, table I: 81/263 and 15/148, method 3 (score)
    found = wilson(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    found = wilson(15, 148)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0624, 0.1605)


@given(st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_stays_in_0_to_1(counts: tuple[int, int]) -> None:
    found = wilson(*counts)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= hits <= n"):
        wilson(hits, n)


def test_the_bootstrap_of_a_mean_is_as_wide_as_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_of_samples(values, 2_000, seed=1)
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found.n == 400
    assert found == mean_of_samples(values, 2_000, seed=1) != mean_of_samples(values, 2_000, seed=2)


def test_a_statistic_that_resampling_raises_keeps_its_value_within() -> None:
    """The mean distance to the nearest other sample falls to 0 where one is drawn twice."""
    points = np.random.default_rng(0).normal(size=60)

    def apart(places: np.ndarray) -> float:
        drawn = np.sort(points[places])
        return float(np.diff(drawn).mean() - 10 * (np.diff(drawn) == 0).mean())

    found = bootstrap(apart, [60], 200, seed=0)
    assert found.low <= found.value <= found.high
    assert found.value == apart(np.arange(60))


def test_two_sets_are_drawn_apart_and_an_empty_one_is_refused() -> None:
    seen: list[tuple[int, int]] = []
    found = bootstrap(lambda x, y: float(seen.append((len(x), len(y))) or 0.0), [3, 5], 2, seed=0)
    assert (set(seen), found.n) == ({(3, 5)}, 3)
    with pytest.raises(ValueError, match="at least one sample"):
        bootstrap(lambda x: 0.0, [0], 2, seed=0)
