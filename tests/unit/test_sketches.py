"""Sketches: the same for the same numbers, however they came, and close to the truth by a known bound."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen.report.sketches import LARGEST, MAX_VALUES, UNIT, Names, Sketch, cohens_d, ks_statistic, total_variation

NUMBERS = st.lists(st.floats(-LARGEST, LARGEST) | st.integers(-3_000, 3_000).map(float), max_size=60)
SIZES = st.floats(1e-3, 1e9) | st.integers(1, 100_000).map(float)


def same(one: Sketch, two: Sketch) -> bool:
    plain = ("bits", "n", "total", "squares", "low", "high")
    return (
        all(getattr(one, name) == getattr(two, name) for name in plain)
        and np.array_equal(one.values_V, two.values_V)
        and np.array_equal(one.counts_V, two.counts_V)
    )


@given(NUMBERS, NUMBERS, NUMBERS)
def test_adding_is_associative_and_commutative_to_the_last_bit(x: list[float], y: list[float], z: list[float]) -> None:
    a, b, c = Sketch.of(x), Sketch.of(y), Sketch.of(z)
    assert same(a + b, b + a)
    assert same((a + b) + c, a + (b + c))
    assert same(a + b + c, Sketch.of([*z, *x, *y]))


@given(NUMBERS)
def test_counts_sums_and_range_are_exact(x: list[float]) -> None:
    sketch = Sketch.of(x)
    assert sketch.n == len(x) == sketch.counts_V.sum()
    if x:
        assert (sketch.low, sketch.high) == (min(x), max(x))
        assert sketch.mean == float(sum(map(Fraction, x)) / len(x))


@given(st.lists(SIZES | SIZES.map(lambda size: -size), min_size=1, max_size=60))
def test_squares_are_rounded_once_each_and_added_exactly(x: list[float]) -> None:
    sketch = Sketch.of(x[:7]) + Sketch.of(x[7:])
    assert Fraction(sketch.squares, 1 << UNIT) == sum(Fraction(each * each) for each in x)
    # a difference of large numbers: what is left of it is as sure as the squares
    assert sketch.variance == pytest.approx(np.var(x), rel=1e-9, abs=1e-12 * max(map(abs, x)) ** 2)


@given(st.lists(SIZES, min_size=1, max_size=80), st.floats(0, 1))
def test_a_quantile_is_off_by_2_to_the_minus_10_of_itself_at_most(x: list[float], share: float) -> None:
    sketch = Sketch.of(x)
    exact = float(np.quantile(x, share, method="inverted_cdf"))
    assert exact * (1 - 2**-10) <= sketch.quantile(share) <= exact
    assert sketch.error == 2**-10


def test_whole_numbers_are_kept_as_they_are() -> None:
    sketch = Sketch.of(np.arange(-2_048, 2_049))
    assert sketch.values_V.tolist() == list(range(-2_048, 2_049))
    assert sketch.quantile(0.5) == 0


def test_more_values_than_it_holds_cost_precision_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.lognormal(0, 6, 20_000) for _ in range(4)]
    one, two = Sketch(), Sketch()
    for part in parts:
        one += Sketch.of(part)
    for piece in reversed([piece for part in parts for piece in np.array_split(part, 7)]):
        two += Sketch.of(piece)
    assert same(one, two)
    assert same(one, Sketch.of(np.concatenate(parts)))
    assert len(one.values_V) <= MAX_VALUES
    assert one.bits < 11
    exact = np.quantile(np.concatenate(parts), 0.3, method="inverted_cdf")
    assert exact * (1 - one.error) <= one.quantile(0.3) <= exact


def test_what_is_no_number_is_left_out() -> None:
    assert Sketch.of([math.nan, math.inf, -math.inf, 1e200, 3.0]).n == 1
    empty = Sketch.of([])
    assert math.isnan(empty.quantile(0.5))
    assert math.isnan(empty.mean)
    assert ks_statistic(empty, Sketch.of([1.0])) == 0
    assert cohens_d(empty, Sketch.of([1.0])) is None


@given(st.lists(SIZES, min_size=1, max_size=60), st.lists(SIZES, min_size=1, max_size=60))
def test_the_largest_gap_is_that_of_the_cut_numbers(x: list[float], y: list[float]) -> None:
    def cut(values: list[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        mantissa, exponent = np.frexp(values)
        return np.ldexp(np.floor(mantissa * 2**11), exponent - 11)

    def gap(a: np.ndarray[tuple[int], np.dtype[np.float64]], b: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        everywhere = np.concatenate([a, b])
        shares = [np.searchsorted(np.sort(each), everywhere, side="right") / len(each) for each in (a, b)]
        return float(np.abs(shares[0] - shares[1]).max())

    assert ks_statistic(Sketch.of(x), Sketch.of(y)) == pytest.approx(gap(cut(x), cut(y)))


def test_effect_sizes() -> None:
    a, b = np.arange(10.0), np.arange(10.0) + 5
    assert ks_statistic(Sketch.of(a), Sketch.of(b)) == pytest.approx(0.5)
    assert ks_statistic(Sketch.of(a), Sketch.of(a)) == 0
    assert cohens_d(Sketch.of(a), Sketch.of(b)) == pytest.approx(5 / a.std())
    assert cohens_d(Sketch.of(np.ones(3)), Sketch.of(np.full(3, 2.0))) is None
    assert cohens_d(Sketch.of(np.full(3, 0.1)), Sketch.of(np.full(7, 0.1))) == 0
    assert total_variation({"x": 1, "y": 1}, {"x": 2}) == pytest.approx(0.5)


def test_sketches_that_hold_another_number_of_bits_are_compared_at_the_fewer() -> None:
    rng = np.random.default_rng(1)
    wide, some = rng.lognormal(0, 6, 60_000), rng.lognormal(0, 6, 300)
    one, two = Sketch.of(wide), Sketch.of(some)
    assert one.bits < two.bits
    everywhere = np.concatenate([wide, some])
    gaps = [np.searchsorted(np.sort(each), everywhere, side="right") / len(each) for each in (wide, some)]
    exact = float(np.abs(gaps[0] - gaps[1]).max())
    assert exact - 0.01 <= ks_statistic(one, two) <= exact


def test_bars_count_every_number_once() -> None:
    x = np.random.default_rng(2).normal(0, 100, 5_000)
    sketch = Sketch.of(x)
    edges = np.linspace(sketch.low, sketch.high, 21)
    bars = sketch.histogram(edges)
    assert bars.sum() == len(x)
    assert np.abs(bars - np.histogram(x, edges)[0]).sum() < 60


def test_names_beyond_the_limit_are_counted_together() -> None:
    names = Names(2)
    names.add([("a", 3), ("b", 1), ("c", 5), ("a", 1)])
    assert names.counts == {"a": 4, "b": 1}
    assert (names.further, names.n) == (5, 10)
    assert list(names.top(1)) == ["a"]
    long = Names()
    long.add([("x" * 300 + "1", 1), ("x" * 300 + "2", 1)])
    assert list(long.counts.values()) == [2]
