"""The space in which samples of a slot are compared, and the distances in it: Fréchet, kernel, precision to coverage.

Features are those of the slot's judge, or of the fusion model where data has no labels. They are moved and scaled as
one, so that the real ones have mean 0 and variance 1 in all: a Fréchet distance of 1 is what a generator scores that
always gives the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmgen.evaluate import scores
from mmgen.evaluate.frechet import frechet_distance
from mmgen.evaluate.intervals import Estimate
from mmgen.evaluate.kernel_distance import kernel_distance
from mmgen.evaluate.manifold import NEIGHBOURS, Manifold, manifold, radii
from mmgen.evaluate.measure import FEWEST, Embedding, Made, Panel, halved
from mmgen.evaluate.scores import Score, score


@dataclass(frozen=True)
class Features:
    """What values are compared by: what a judge sees, or, where data has no labels, the fusion model.

    embed: into the fusion space, None where there is no fusion model.
    """

    panel: Panel
    embed: Embedding | None

    @property
    def labelled(self) -> bool:
        """Whether there are judges; without them retrieval in the fusion space takes the place of coherence."""
        return bool(self.panel.judges)

    def name(self, slot: str) -> str | None:
        """Whose features a slot has; None where it has none."""
        if slot in self.panel.slots:
            return self.panel.judge(slot)
        return "fusion" if self.embed is not None and not self.labelled else None

    def of(self, slot: str, value: Tensor) -> Tensor | None:
        """Features (B, D) of values (B, …); None where the slot has none."""
        if slot in self.panel.slots:
            return self.panel.features(slot, value)
        return self.embed(slot, value) if self.embed is not None and not self.labelled else None


@dataclass(frozen=True)
class Space:
    """The real samples of one slot. judge: whose features. rows: theirs in the exam. real_ND: scaled, float64.

    first, second: places of two random halves. reach_N: see mmgen.evaluate.manifold; empty for too few samples.
    """

    slot: str
    judge: str
    rows: Tensor
    real_ND: Tensor
    first: Tensor
    second: Tensor
    reach_N: Tensor
    mean_D: Tensor
    scale: float

    @classmethod
    def of(cls, slot: str, judge: str, rows: Tensor, features_ND: Tensor, seed: int) -> Space:
        """From the features of the real samples at these rows; at least one."""
        wide_ND = features_ND.double()
        mean_D = wide_ND.mean(dim=0)
        scale = math.sqrt(max(1e-24, float((wide_ND - mean_D).square().sum(dim=1).mean())))
        first, second = halved(len(rows), seed) if len(rows) > 1 else (torch.arange(1), torch.arange(0))
        real_ND = (wide_ND - mean_D) / scale
        reach_N = radii(real_ND) if len(rows) > NEIGHBOURS else real_ND.new_zeros(0)
        return cls(slot, judge, rows, real_ND, first, second, reach_N, mean_D, scale)

    def scaled(self, features_ND: Tensor) -> Tensor:
        """Features of made samples in this space, float64."""
        return (features_ND.double() - self.mean_D) / self.scale

    def beyond(self, rows_N: Tensor) -> Tensor:
        """Places of made samples whose condition is not of the first half, as many as that half has at most: a set
        that is to the first half what the second one is."""
        held = torch.isin(rows_N, self.rows[self.first.to(self.rows.device)])
        return (~held).nonzero().squeeze(1)[: len(self.first)]


def floors(space: Space, resamples: int, seed: int) -> list[Score]:
    """What a perfect generator would score: one half of the real samples against the other."""
    first, second = (space.real_ND[half.to(space.real_ND.device)] for half in (space.first, space.second))
    found: dict[str, Estimate] = {}
    if len(second) >= FEWEST:
        found[scores.FRECHET_FLOOR] = frechet_distance(second, first, resamples, seed)
        found[scores.JUDGE_KERNEL_FLOOR] = kernel_distance(_per_number(second), _per_number(first))
    if len(second) > NEIGHBOURS:
        for metric, each in _named(manifold(second, first, resamples, seed)).items():
            found[metric + scores.REAL] = each
    return [score(metric, [], [space.slot], space.judge, each) for metric, each in found.items()]


def distances(space: Space, made: Made, features_ND: Tensor, resamples: int, seed: int) -> list[Score]:
    """Of what was made to the real samples of its slot. The Fréchet distance, which depends on the number of samples,
    is taken to one half of the real ones as its floor is; the others do not, and are taken to all."""
    came_ND = space.scaled(features_ND)
    found: dict[str, Estimate] = {}
    beyond = space.beyond(made.rows)
    if min(len(beyond), len(space.first)) >= FEWEST:
        first = space.real_ND[space.first.to(space.real_ND.device)]
        found[scores.FRECHET_DISTANCE] = frechet_distance(came_ND[beyond], first, resamples, seed)
    if min(len(came_ND), len(space.real_ND)) >= FEWEST:
        found[scores.JUDGE_KERNEL_DISTANCE] = kernel_distance(_per_number(came_ND), _per_number(space.real_ND))
    if min(len(came_ND), len(space.real_ND)) > NEIGHBOURS:
        found |= _named(manifold(came_ND, space.real_ND, resamples, seed, reach_M=space.reach_N))
    return [score(metric, [made.given], [made.slot], space.judge, each) for metric, each in found.items()]


def _named(found: Manifold) -> dict[str, Estimate]:
    return {
        scores.PRECISION: found.precision,
        scores.RECALL: found.recall,
        scores.DENSITY: found.density,
        scores.COVERAGE: found.coverage,
    }


def _per_number(x_ND: Tensor) -> Tensor:
    """Scaled so that each number has variance 1 in the mean: the kernel divides products by D."""
    return x_ND * math.sqrt(x_ND.shape[1])
