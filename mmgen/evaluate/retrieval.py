"""Retrieval: is the condition that a sample was made from the nearest among a hundred conditions? And is a sample's
own partner among the nearest of all?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmgen.evaluate.intervals import Estimate, wilson

AMONG = 100
#: cosine from which two conditions count as the same one (equal captions): neither is a distractor to the other
SAME = 1 - 1e-5
#: queries compared at once
ROWS = 512


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


@dataclass(frozen=True, slots=True)
class Recall:
    """recall: k → share of queries whose own partner is among the k nearest. chance: k → what a random order has.
    gallery: what a query is compared with, without what is equal to its own, mean over queries."""

    recall: dict[int, Estimate]
    chance: dict[int, float]
    gallery: float


def recall_at(
    query_ND: Tensor,
    gallery_ND: Tensor,
    ranks: Sequence[int] = (1, 5, 10),
    same: Sequence[Tensor] = (),
) -> Recall:
    """Recall of each query's own row of the gallery among all of it, by cosine.

    same: group numbers (N,) of what is equal in content, of the queries, of the gallery (see `groups`): an entry of
    the own group of either is as right as the own one, and is left out. A tie with another entry counts as behind it,
    so a space that collapsed finds nothing. Raises ValueError for fewer than 2 rows.
    """
    n = len(query_ND)
    if n < 2 or query_ND.shape != gallery_ND.shape:
        came = f"{tuple(query_ND.shape)}, {tuple(gallery_ND.shape)}"
        raise ValueError(f"recall_at: wanted two (N ≥ 2, D) sets of one shape, came {came}")
    query, gallery = (torch.nn.functional.normalize(e.double(), dim=1) for e in (query_ND, gallery_ND))
    before, among = [], []
    for start in range(0, n, ROWS):
        rows = torch.arange(start, min(start + ROWS, n), device=query.device)
        similarity_RN = query[rows] @ gallery.T
        left_out_RN = torch.zeros_like(similarity_RN, dtype=torch.bool)
        left_out_RN[torch.arange(len(rows)), rows] = True
        for group_N in same:
            left_out_RN |= group_N[rows, None] == group_N
        own_R1 = similarity_RN[torch.arange(len(rows)), rows][:, None]
        before.append(((similarity_RN >= own_R1) & ~left_out_RN).sum(1))
        among.append(n - left_out_RN.sum(1) + 1)
    before_N, among_N = torch.cat(before), torch.cat(among)
    recall = {k: wilson(int((before_N < k).sum()), n) for k in ranks}
    chance = {k: float((k / among_N).clamp(max=1.0).mean()) for k in ranks}
    return Recall(recall, chance, float(among_N.double().mean()))


def groups(values: Sequence[Tensor]) -> Tensor:
    """Group numbers (N,) of rows that are equal in all of these values (N, …): equal captions, say."""
    each = [torch.unique(value.flatten(1), dim=0, return_inverse=True)[1] for value in values]
    whole: Tensor = torch.unique(torch.stack(each, 1), dim=0, return_inverse=True)[1]
    return whole
