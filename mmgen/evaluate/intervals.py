"""Intervals of scores: Wilson's for shares, a bootstrap for the rest (a kernel distance brings its own jackknife)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: two-sided 95% of a normal
Z_95 = 1.959963984540054
#: what a bootstrap leaves out on either side
TAIL = 0.025

Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int, z: float = Z_95) -> Estimate:
    """The share hits / n with Wilson's score interval (Wilson 1927). Raises ValueError unless 0 ≤ hits ≤ n, n ≥ 1."""
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"wilson: wanted 0 <= hits <= n and n >= 1, came hits={hits}, n={n}")
    share = hits / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # at the ends the bound is the end itself, which rounding would miss by 1e-17
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return Estimate(share, low, high, n)


def bootstrap(
    statistic: Callable[..., float], sizes: Sequence[int], resamples: int, seed: int, value: float | None = None
) -> Estimate:
    """A statistic of one or more sets, with the percentile interval of its resamples (Efron 1979).

    statistic: of one array of places for each set; sizes: of the sets. value: what it is without resampling, if known.
    The interval is moved so that its median is the value: a resample holds samples twice, by which a distance is
    larger in every one of them. It shows the spread at this n, not the bias, which a floor at the same n shows.
    Raises ValueError for an empty set.
    """
    if min(sizes) < 1:
        raise ValueError(f"bootstrap: wanted sets of at least one sample, came {list(sizes)}")
    if value is None:
        value = statistic(*(np.arange(size) for size in sizes))
    rng = np.random.default_rng(seed)
    drawn = [statistic(*(rng.integers(size, size=size) for size in sizes)) for _ in range(resamples)]
    low, middle, high = np.quantile(drawn, (TAIL, 0.5, 1 - TAIL))
    return Estimate(value, value + float(low - middle), value + float(high - middle), min(sizes))


def mean_of_samples(values_N: Sequence[float] | NDArray[np.float64], resamples: int, seed: int) -> Estimate:
    """The mean of one number per sample, with its bootstrap interval."""
    numbers_N = np.asarray(values_N, dtype=np.float64)
    return bootstrap(lambda places: float(numbers_N[places].mean()), [len(numbers_N)], resamples, seed)
