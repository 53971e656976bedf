"""Fréchet distance of two sets of vectors, by torchmetrics, with a bootstrap interval.

Heusel et al. 2017, arXiv:1706.08500: |m - w|² + Tr(C + W - 2 (C W)^½) of the Gaussians of both sets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from mmgen.evaluate.intervals import Estimate, Places, bootstrap

#: fewest vectors that have a covariance
FEWEST = 2


class _Vectors(nn.Module):
    """What torchmetrics takes for its network: the features are there already, once for all scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, e_ND: Tensor) -> Tensor:
        return e_ND


def frechet_distance(x_ND: Tensor, y_MD: Tensor, resamples: int, seed: int) -> Estimate:
    """torchmetrics' Fréchet distance in float64, with the bootstrap interval of both sets.

    It falls with the number of samples: only distances of as many can be compared. Raises ValueError for fewer than
    two vectors or unlike widths.
    """
    if min(len(x_ND), len(y_MD)) < FEWEST or x_ND.shape[1] != y_MD.shape[1]:
        came = f"{tuple(x_ND.shape)}, {tuple(y_MD.shape)}"
        raise ValueError(f"frechet_distance: wanted two (N ≥ {FEWEST}, D) sets, came {came}")
    x_ND, y_MD = x_ND.double().cpu(), y_MD.double().cpu()
    metric = FrechetInceptionDistance(_Vectors(x_ND.shape[1])).set_dtype(torch.float64)
    metric.update(y_MD, real=True)
    metric.update(x_ND, real=False)
    value = float(metric.compute())

    def resampled(x: Places, y: Places) -> float:
        return frechet(x_ND[torch.from_numpy(x)], y_MD[torch.from_numpy(y)])

    return bootstrap(resampled, [len(x_ND), len(y_MD)], resamples, seed, value)


def frechet(x_ND: Tensor, y_MD: Tensor) -> float:
    """The same number from a symmetric eigenproblem, in half of the time: C = RᵀR has Tr (C W)^½ = Tr (R W Rᵀ)^½."""
    means = x_ND.mean(0), y_MD.mean(0)
    x, y = ((each - mean) / (len(each) - 1) ** 0.5 for each, mean in zip((x_ND, y_MD), means, strict=True))
    mixed = torch.linalg.qr(x, mode="r").R @ y.T
    shared = torch.linalg.eigvalsh(mixed @ mixed.T).clamp(min=0).sqrt().sum()
    return float((means[0] - means[1]).square().sum() + x.square().sum() + y.square().sum() - 2 * shared)
