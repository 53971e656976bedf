"""Retrieval: is the condition that a sample was made from the nearest among a hundred conditions?"""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.evaluate.intervals import Estimate, wilson

AMONG = 100
#: cosine from which two conditions count as the same one (equal captions): neither is a distractor to the other
SAME = 1 - 1e-5


def recall_at_1(made_ND: Tensor, given_ND: Tensor, rng: torch.Generator, among: int = AMONG) -> Estimate:
    """Share of rows of `made_ND` whose own condition in `given_ND` is nearer (cosine) than all distractors.

    Each row's distractors are `among` - 1 other conditions drawn with `rng` (all others if there are fewer), without
    those that equal its own. A tie with a distractor is a miss, so a collapsed generator scores nothing.
    Chance is 1 / `among`. Raises ValueError for fewer than 2 rows.
    """
    n = len(made_ND)
    if n < 2 or made_ND.shape != given_ND.shape:
        came = f"{tuple(made_ND.shape)}, {tuple(given_ND.shape)}"
        raise ValueError(f"recall_at_1: wanted two (N ≥ 2, D) sets of one shape, came {came}")
    made, given = (torch.nn.functional.normalize(e.double(), dim=1) for e in (made_ND, given_ND))
    similarity_NN, same_NN = made @ given.T, given @ given.T >= SAME
    hits = 0
    for row in range(n):
        others = torch.randperm(n - 1, generator=rng)[: among - 1].to(similarity_NN.device)
        others = others + (others >= row)
        distractors = others[~same_NN[row, others]]
        hits += bool((similarity_NN[row, distractors] < similarity_NN[row, row]).all())
    return wilson(hits, n)
