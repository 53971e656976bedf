"""How well made samples lie among the real ones, and the real ones among them: a collapse shows here.

Precision and recall: Kynkäänniemi et al. 2019, arXiv:1904.06991. Density and coverage: Naeem et al. 2020,
arXiv:2002.09797. Both take the balls around samples that reach to their k-th neighbour for the support of their set.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmgen.evaluate.intervals import Estimate, mean_of_samples, wilson

#: k of Naeem et al.
NEIGHBOURS = 5
#: what rounding may add to a distance: equal samples are neighbours at distance 0
SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Manifold:
    """precision: share of made samples within a real ball. recall: share of real ones within a made ball.
    density: real balls around a made sample, over k; about 1 for real data, more where it crowds.
    coverage: share of real balls that hold a made sample; 1 - 2⁻ᵏ for as many of the same distribution."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold(
    made_ND: Tensor, real_MD: Tensor, resamples: int, seed: int, k: int = NEIGHBOURS, reach_M: Tensor | None = None
) -> Manifold:
    """All four, in float64; shares with Wilson's interval. reach_M: `radii` of the real set, if there already.

    Raises ValueError unless both sets have more than k.
    """
    if min(len(made_ND), len(real_MD)) <= k or made_ND.shape[1] != real_MD.shape[1]:
        came = f"{tuple(made_ND.shape)}, {tuple(real_MD.shape)}"
        raise ValueError(f"manifold: wanted two (N > {k}, D) sets, came {came}")
    made, real = made_ND.double(), real_MD.double()
    apart_NM = _distances(made, real)
    in_real_NM = apart_NM <= (radii(real, k) if reach_M is None else reach_M)
    in_made_NM = apart_NM <= radii(made, k)[:, None]
    return Manifold(
        precision=_share(in_real_NM.any(dim=1)),
        recall=_share(in_made_NM.any(dim=0)),
        density=mean_of_samples((in_real_NM.sum(dim=1).double() / k).cpu().numpy(), resamples, seed),
        coverage=_share(in_real_NM.any(dim=0)),
    )


def _distances(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    # ten times as fast by products, whose rounding in float64 is below the slack
    return torch.cdist(x_ND, y_MD, compute_mode="use_mm_for_euclid_dist")


def radii(x_ND: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Distance (N,) of each sample to its k-th neighbour, itself not counted, with the slack of rounding."""
    reach_N: Tensor = _distances(x_ND.double(), x_ND.double()).kthvalue(k + 1, dim=1).values
    return reach_N * (1 + SLACK) + SLACK


def _share(which: Tensor) -> Estimate:
    return wilson(int(which.sum()), len(which))
