"""Fréchet distance: torchmetrics' number, and what it must tell apart. The kernel distance against torchmetrics."""

from __future__ import annotations

import warnings

import pytest
import torch

from mmgen.evaluate.frechet import frechet, frechet_distance
from mmgen.evaluate.kernel_distance import kernel_distance


def normal(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * scale + shift


@pytest.mark.parametrize(("n", "width"), [(200, 8), (20, 40)], ids=["enough", "fewer than numbers"])
def test_the_fast_way_gives_torchmetrics_number(n: int, width: int) -> None:
    x, y = normal(n, width, 0), normal(n + 7, width, 1, 1.5, 0.3).relu()
    found = frechet_distance(x, y, 5, 0)
    assert found.value == pytest.approx(frechet(x, y), rel=1e-6)
    assert (found.n, found.low <= found.value <= found.high) == (n, True)


def test_gaussians_of_known_moments_have_the_distance_of_the_formula() -> None:
    x, y = normal(50_000, 3, 0, 1.0), normal(50_000, 3, 1, 2.0, 1.0)
    # |1 - 0|² · 3 + 3 · (1 + 4 - 2 · 2)
    assert frechet(x, y) == pytest.approx(6.0, rel=0.02)


def test_of_itself_it_is_nothing_and_its_interval_shows_the_spread() -> None:
    x = normal(300, 4, 0)
    assert abs(frechet(x, x)) < 1e-9
    far = frechet_distance(normal(300, 4, 2, shift=1.0), x, 200, 0)
    again = [frechet(normal(300, 4, seed, shift=1.0), normal(300, 4, seed + 50)) for seed in range(3, 43)]
    inside = sum(far.low - far.value <= each - sum(again) / 40 <= far.high - far.value for each in again)
    assert inside >= 34


def test_too_few_or_unlike_vectors_are_refused() -> None:
    for x, y in ((normal(1, 3, 0), normal(5, 3, 0)), (normal(5, 3, 0), normal(5, 4, 0))):
        with pytest.raises(ValueError, match="frechet_distance: wanted"):
            frechet_distance(x, y, 2, 0)


def test_our_kernel_distance_is_torchmetrics_of_one_subset_of_everything() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    class Same(torch.nn.Module):
        num_features = 6

        def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
            return x_ND

    x, y = normal(40, 6, 0), normal(40, 6, 1, 1.3, 0.2)
    with warnings.catch_warnings():
        # that it keeps all features
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(Same(), subsets=1, subset_size=40)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert float(metric.compute()[0]) == pytest.approx(kernel_distance(y, x).value, rel=1e-5)
