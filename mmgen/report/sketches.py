"""Mergeable summaries of columns that are too long to hold: numbers and names, the same whatever order they came in.

Why not a library: KLL and t-digest (datasketches, tdigest) depend on random numbers or on the order of arrival, so
the same data would give other bytes; DDSketch (Masson et al. 2019) has our error bound, but its Python takes
microseconds per value. Here a value loses its low mantissa bits, which is one mask over the array, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: significant bits that a value keeps: integers up to 2,048 are whole, others lose at most 2^-10 of themselves
BITS = 11
#: distinct values that a sketch holds, 16 bytes each; beyond it all lose a bit more (8 octaves of 1,024 values)
MAX_VALUES = 8_192
#: numbers beyond it count as none: what is measured lies far below, and their squares would overflow
LARGEST = 1e150
#: sums are integers in units of 2^-UNIT, below the square of the smallest double's mantissa
UNIT = 2_400
#: names that are counted one by one, and the characters of a name that tell it apart
MAX_NAMES = 100_000
NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts of numbers cut to `bits` significant bits, beside their exact count, sums and range.

    values_V: distinct cut values, rising. counts_V: how often. total, squares: exact sums of x and of x² (each square
    rounded to a double), in units of 2^-UNIT. A sketch depends on its numbers only, neither on their order nor on how
    they were batched: cutting is monotone and nested, integers add exactly, `bits` is the most that the numbers allow.
    """

    bits: int = BITS
    n: int = 0
    total: int = 0
    squares: int = 0
    low: float = math.inf
    high: float = -math.inf
    values_V: Floats = field(default_factory=lambda: np.empty(0))
    counts_V: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, x_N: npt.ArrayLike) -> Sketch:
        """The sketch of some numbers. NaN, infinities and numbers beyond 1e150 are left out."""
        numbers = np.asarray(x_N, np.float64)
        # zero has two signs, and one count
        numbers = numbers[np.abs(numbers) <= LARGEST] + 0.0
        if not len(numbers):
            return cls()
        values, counts = np.unique(_cut(numbers, BITS), return_counts=True)
        mantissa, exponent = np.frexp(numbers)
        # squares of mantissas have exponents of their own, and no overflow
        square, more = np.frexp(mantissa * mantissa)
        total, squares = _exact_sum(mantissa, exponent), _exact_sum(square, 2 * exponent + more)
        return _bounded(
            cls(BITS, len(numbers), total, squares, float(numbers.min()), float(numbers.max()), values, counts)
        )

    def __add__(self, other: Sketch) -> Sketch:
        """The sketch of both's numbers: associative and commutative to the last bit."""
        if not (self.n and other.n):
            return self if self.n else other
        bits = min(self.bits, other.bits)
        values, counts = _counted(
            np.concatenate([self.values_V, other.values_V]), np.concatenate([self.counts_V, other.counts_V]), bits
        )
        return _bounded(
            Sketch(
                bits, self.n + other.n, self.total + other.total, self.squares + other.squares,
                min(self.low, other.low), max(self.high, other.high), values, counts,
            )
        )  # fmt: skip

    @property
    def error(self) -> float:
        """By how much of itself a quantile may be too near to zero: 2^(1 − bits)."""
        return 2.0 ** (1 - self.bits)

    @property
    def mean(self) -> float:
        """The exact mean, rounded once. NaN of nothing."""
        return float(Fraction(self.total, self.n << UNIT)) if self.n else math.nan

    @property
    def variance(self) -> float:
        """The mean squared deviation. NaN of nothing."""
        if not self.n:
            return math.nan
        return max(0.0, float(Fraction(self.squares, self.n << UNIT) - Fraction(self.total, self.n << UNIT) ** 2))

    def quantile(self, share: float) -> float:
        """The smallest number below or at which lies `share` of all, 0..1; too near to zero by `error` at most.

        The least and the greatest are exact. NaN of nothing.
        """
        if not self.n:
            return math.nan
        if share <= 0 or share >= 1:
            return self.low if share <= 0 else self.high
        place = int(np.searchsorted(np.cumsum(self.counts_V), share * self.n))
        return min(max(float(self.values_V[min(place, len(self.values_V) - 1)]), self.low), self.high)

    def histogram(self, edges_E: Floats) -> Ints:
        """How many numbers lie between each two edges, the last edge included."""
        clipped = np.clip(self.values_V, self.low, self.high)
        return np.histogram(clipped, edges_E, weights=self.counts_V)[0].astype(np.int64)


def ks_statistic(a: Sketch, b: Sketch) -> float:
    """Kolmogorov and Smirnov's: the largest gap between the two cumulative shares, 0..1; 0 if either is empty.

    Cutting never widens a gap: this is at most the statistic of the numbers, and equals it where they are cut to
    themselves (integers up to 2,048).
    """
    if not (a.n and b.n):
        return 0.0
    bits = min(a.bits, b.bits)
    counted = [_counted(each.values_V, each.counts_V, bits) for each in (a, b)]
    everywhere_W = np.union1d(counted[0][0], counted[1][0])
    below = [
        np.concatenate([[0], np.cumsum(counts)])[np.searchsorted(values, everywhere_W, side="right")]
        for values, counts in counted
    ]
    return float(np.abs(below[0] / a.n - below[1] / b.n).max())


def cohens_d(a: Sketch, b: Sketch) -> float | None:
    """(mean b − mean a) over the pooled standard deviation; None if neither varies and they differ, or one is empty."""
    if not (a.n and b.n):
        return None
    pooled, difference = math.sqrt((a.variance + b.variance) / 2), b.mean - a.mean
    # what does not vary beyond rounding has no scale to measure a difference on
    rounding = 1e-6 * max(abs(a.mean), abs(b.mean), 1e-12)
    if pooled <= rounding:
        return 0.0 if abs(difference) <= rounding else None
    return difference / pooled


def _cut(numbers: Floats, bits: int) -> Floats:
    """Without what lies below `bits` significant bits, towards zero. Of a cut number: as if it had never been cut."""
    return (numbers.view(np.int64) & ~((1 << (53 - bits)) - 1)).view(np.float64)


def _counted(values: Floats, counts: Ints, bits: int) -> tuple[Floats, Ints]:
    """Values cut to `bits`, each once, with their counts added up."""
    short = _cut(values, bits) + 0.0
    # mostly two rising runs, which a stable sort only merges
    order = np.argsort(short, kind="stable")
    short, counts = short[order], counts[order]
    first = np.flatnonzero(np.concatenate([[True], short[1:] != short[:-1]]))
    return short[first], np.add.reduceat(counts, first)


def _bounded(sketch: Sketch) -> Sketch:
    """With as few bits less as it takes to hold MAX_VALUES."""
    bits, values, counts = sketch.bits, sketch.values_V, sketch.counts_V
    while len(values) > MAX_VALUES and bits > 1:
        bits -= 1
        values, counts = _counted(values, counts, bits)
    return Sketch(bits, sketch.n, sketch.total, sketch.squares, sketch.low, sketch.high, values, counts)


def _exact_sum(mantissa_N: Floats, exponent_N: npt.NDArray[np.int32]) -> int:
    """Σ mantissa · 2^exponent in units of 2^-UNIT. |mantissa| ≤ 1, at most 2^25 of them at once.

    The 53-bit integers of one exponent are added in two halves, which doubles hold exactly.
    """
    whole_N = np.ldexp(mantissa_N, 53).astype(np.int64)
    lowest = int(exponent_N.min())
    place_N = exponent_N - lowest
    upper, lower = np.bincount(place_N, whole_N >> 26), np.bincount(place_N, whole_N & ((1 << 26) - 1))
    used = np.flatnonzero(np.bincount(place_N)).tolist()
    return sum(((int(upper[at]) << 26) + int(lower[at])) << (at + lowest + UNIT - 53) for at in used)


class Names:
    """How often each name occurs, for at most MAX_NAMES of them: those that come first; the others together.

    In row order the counts are the same however the rows are batched. Beyond 200 characters names are not told apart.
    """

    __slots__ = ("counts", "further", "most")

    def __init__(self, most: int = MAX_NAMES) -> None:
        self.most = most
        self.counts: dict[str, int] = {}
        self.further = 0

    def add(self, counted: Iterable[tuple[str, int]]) -> None:
        """Count names, in the order of their first appearance."""
        for name, count in counted:
            short = name[:NAME_CHARS]
            if short in self.counts:
                self.counts[short] += count
            elif len(self.counts) < self.most:
                self.counts[short] = count
            else:
                self.further += count

    @property
    def n(self) -> int:
        """All that was counted."""
        return sum(self.counts.values()) + self.further

    def top(self, count: int) -> dict[str, int]:
        """The most frequent names, ties by name."""
        return dict(sorted(self.counts.items(), key=lambda each: (-each[1], each[0]))[:count])


def total_variation(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Half the sum of absolute differences of the shares, 0..1."""
    whole_a, whole_b = sum(a.values()) or 1, sum(b.values()) or 1
    return math.fsum(abs(a.get(name, 0) / whole_a - b.get(name, 0) / whole_b) for name in {*a, *b}) / 2
