"""Kernel distance between two sets of vectors: the unbiased squared MMD with KID's cubic kernel.

Bińkowski et al. 2018, arXiv:1801.01401: k(x, y) = (x·y / D + 1)³. Gretton et al. 2012, eq. 3, is the estimator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmgen.evaluate.intervals import Z_95, Estimate


def unit_scale(e_ND: Tensor) -> Tensor:
    """Vectors scaled to length √D, so that x·y / D in the kernel is their cosine. float64."""
    unit_ND: Tensor = torch.nn.functional.normalize(e_ND.double(), dim=1)
    return unit_ND * math.sqrt(e_ND.shape[1])


def kernel(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """The cubic kernel of every pair, (N, M) float64."""
    products_NM: Tensor = x_ND.double() @ y_MD.double().T / x_ND.shape[1]
    return (products_NM + 1).pow(3)


def kernel_distance(x_ND: Tensor, y_MD: Tensor) -> Estimate:
    """Unbiased MMD² of two independent sets of at least 3 vectors each, with a delete-one jackknife's 95% interval.

    In expectation 0 for sets of one distribution, so a value may be below 0. Computed in float64. n is the smaller
    set's size. Raises ValueError for smaller sets or unlike widths.
    """
    n, m = len(x_ND), len(y_MD)
    if min(n, m) < 3 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"kernel_distance: wanted two (N ≥ 3, D) sets, came {tuple(x_ND.shape)}, {tuple(y_MD.shape)}")
    xx_N, yy_M, xy_NM = _off_diagonal(kernel(x_ND, x_ND)), _off_diagonal(kernel(y_MD, y_MD)), kernel(x_ND, y_MD)
    xx, yy, xy = xx_N.sum(), yy_M.sum(), xy_NM.sum()

    def mmd(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Tensor:
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    value = mmd(xx, yy, xy, n, m)
    # leaving out one x takes its row and its column out of xx, and its row out of xy; likewise for y
    without_x = mmd(xx - 2 * xx_N, yy, xy - xy_NM.sum(1), n - 1, m)
    without_y = mmd(xx, yy - 2 * yy_M, xy - xy_NM.sum(0), n, m - 1)
    variance = sum((k - 1) / k * ((each - each.mean()) ** 2).sum() for each, k in ((without_x, n), (without_y, m)))
    half = Z_95 * math.sqrt(float(variance))
    return Estimate(float(value), float(value) - half, float(value) + half, min(n, m))


def _off_diagonal(k_NN: Tensor) -> Tensor:
    """Row sums without the diagonal."""
    return k_NN.sum(1) - torch.diagonal(k_NN)
