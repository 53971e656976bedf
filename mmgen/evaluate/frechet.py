"""Fréchet distance of two sets of vectors, by torchmetrics, with a bootstrap interval.

Heusel et al. 2017, arXiv:1706.08500: |m - w|² + Tr(C + W - 2 (C W)^½) of the Gaussians of both sets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
        return frechet(x_ND, y_MD, x, y)

    found = bootstrap(resampled, [len(x_ND), len(y_MD)], resamples, seed, value)
    return replace(found, low=min(value, max(0.0, found.low)))


def frechet(x_ND: Tensor, y_MD: Tensor, x: Places | None = None, y: Places | None = None) -> float:
    """The same number, of resampled rows at places `x` and `y` if given, several times as fast: it is symmetric, and
    a row that is drawn twice counts twice in one. A covariance RᵀR has Tr (C W)^½ = Tr (R W Rᵀ)^½."""
    (m_D, r_ND), (w_D, q_MD) = _moments(x_ND, x), _moments(y_MD, y)
    shortest = r_ND if len(r_ND) <= r_ND.shape[1] else torch.linalg.qr(r_ND, mode="r").R
    mixed = shortest @ q_MD.T
    shared = torch.linalg.eigvalsh(mixed @ mixed.T).clamp(min=0).sqrt().sum()
    return float((m_D - w_D).square().sum() + r_ND.square().sum() + q_MD.square().sum() - 2 * shared)


def _moments(x_ND: Tensor, places: Places | None) -> tuple[Tensor, Tensor]:
    """(mean (D,), R (≤ N, D) with RᵀR the covariance) of the rows at these places, of all rows if None."""
    places = np.arange(len(x_ND)) if places is None else places
    rows, times = np.unique(places, return_counts=True)
    times_N = torch.from_numpy(times).to(x_ND)
    x_ND = x_ND[torch.from_numpy(rows)]
    mean_D = (times_N @ x_ND) / len(places)
    return mean_D, (x_ND - mean_D) * (times_N / (len(places) - 1)).sqrt()[:, None]
