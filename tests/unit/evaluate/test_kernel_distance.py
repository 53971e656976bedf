"""Kernel distance against its definition, and what it must tell apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmgen.evaluate.kernel_distance import kernel_distance, unit_scale


def by_definition(x: torch.Tensor, y: torch.Tensor) -> float:
    """Gretton et al. 2012, eq. 3, with loops."""
    k = lambda a, b: (float(a.double() @ b.double()) / len(a) + 1) ** 3  # noqa: E731
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(x[i], y[j]) for i in range(n) for j in range(m)) / (n * m)
    return xx + yy - 2 * xy


def normal(seed: int, n: int, width: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + shift


def test_it_equals_the_definition() -> None:
    x, y = normal(0, 7, 5), normal(1, 9, 5, 0.5)
    assert kernel_distance(x, y).value == pytest.approx(by_definition(x, y), rel=1e-10)


def test_the_jackknife_equals_leaving_each_one_out() -> None:
    x, y = normal(0, 6, 4), normal(1, 8, 4, 0.3)
    left_x = [by_definition(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(6)]
    left_y = [by_definition(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(8)]
    variance = sum((len(v) - 1) / len(v) * np.sum((np.array(v) - np.mean(v)) ** 2) for v in (left_x, left_y))
    found = kernel_distance(x, y)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)


def test_two_halves_of_one_distribution_are_near_zero_and_a_shifted_one_is_far() -> None:
    values = [kernel_distance(normal(2 * s, 80, 16), normal(2 * s + 1, 80, 16)) for s in range(40)]
    covered = sum(e.low <= 0 <= e.high for e in values)
    assert covered >= 34  # 95% of 40 is 38; fewer than 34 has chance 0.003 under it
    assert abs(np.mean([e.value for e in values])) < 0.05
    far = kernel_distance(normal(0, 80, 16), normal(1, 80, 16, 0.7))
    assert far.low > max(e.high for e in values)


def test_unit_scale_makes_the_kernel_one_of_cosines() -> None:
    x = unit_scale(normal(3, 5, 8) * 100)
    assert torch.allclose((x @ x.T / 8).diagonal(), torch.ones(5, dtype=torch.float64))


def test_too_small_or_unlike_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="N ≥ 3"):
        kernel_distance(normal(0, 2, 4), normal(1, 9, 4))
    with pytest.raises(ValueError, match="N ≥ 3"):
        kernel_distance(normal(0, 5, 4), normal(1, 5, 3))
