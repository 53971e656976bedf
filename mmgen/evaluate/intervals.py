"""Intervals of scores: Wilson's for shares, a jackknife for means of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: two-sided 95% of a normal
Z_95 = 1.959963984540054


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
