"""What the fusion model itself is worth, on real samples: retrieval, classes, calibration, robustness, zero-shot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.evaluate import scores
from mmgen.evaluate.intervals import Estimate, wilson
from mmgen.evaluate.label_head import class_rows
from mmgen.evaluate.measure import FEWEST, having
from mmgen.evaluate.retrieval import groups, recall_at
from mmgen.evaluate.robustness import robustness, slot_embeddings
from mmgen.evaluate.scores import Score, score
from mmgen.fusion.fusion import Fusion

RANKS = (1, 5, 10)


def fusion_scores(fusion: Any, real: Batch, labels: Sequence[str], seed: int) -> list[Score]:
    """All rows that real samples alone give. labels: the classes of a head for class indices, in index order."""
    assert isinstance(fusion, Fusion)
    rows = retrieval(fusion, real)
    rows += class_scores(fusion, real, labels, seed)
    return rows + robustness(fusion, real, seed)


@torch.no_grad()
def retrieval(fusion: Fusion, real: Batch) -> list[Score]:
    """Recall@1, 5, 10 of a slot's own partner in each other slot, among all samples that have both, beside chance."""
    e_BSD = slot_embeddings(fusion, real)
    mask_BS, rows = fusion.mask(real), []
    alone = [_alone(fusion, e_BSD, number) for number in range(len(fusion.slots))]
    for one, given in enumerate(fusion.slots):
        for other, made in enumerate(fusion.slots):
            both_B = mask_BS[:, one] & mask_BS[:, other]
            if one == other or int(both_B.sum()) < FEWEST:
                continue
            same = [groups([real.values[slot][both_B]]) for slot in (given, made)]
            found = recall_at(alone[one][both_B], alone[other][both_B], RANKS, same)
            for rank in RANKS:
                name, chance = f"{scores.RECALL_AT}{rank}", found.chance[rank]
                rows.append(score(name, [given], [made], "fusion", found.recall[rank]))
                random = Estimate(chance, chance, chance, round(found.gallery))
                rows.append(score(name + scores.CHANCE, [given], [made], "random", random))
    return rows


@torch.no_grad()
def class_scores(fusion: Fusion, real: Batch, labels: Sequence[str], seed: int) -> list[Score]:
    """Precision, recall and F1 of each class and the calibration, from all slots that each sample has."""
    wanted, known_B = fusion.truth(real)
    rows_N = (known_B & fusion.mask(real).any(1)).nonzero()[:, 0]
    if fusion.head is None or len(rows_N) == 0:
        return []
    out_NK = fusion.logits(fusion.fuse(slot_embeddings(fusion, real), fusion.mask(real))[rows_N])
    given = [slot for slot in fusion.slots if len(having(real, slot)) and slot in real.values]
    names = fusion.target.names if fusion.target is not None else labels
    return class_rows(fusion.target, names, out_NK, wanted[rows_N], fusion.head.guess(out_NK), given, seed, "fusion")


@torch.no_grad()
def zero_shot(
    fusion: Any,
    real: Batch,
    labels: Sequence[str],
    prompts: Mapping[str, str],
    slot: str,
    read: Callable[[str], Tensor],
) -> list[Score]:
    """Share of samples whose nearest prompt, a text for each class, is that of their class; a row for each other slot.

    prompts: class → text; samples of classes without one are left out. slot: the text slot that prompts are read as;
    read: a text → its value (1, …). No head is asked, so no label was learned for it.
    """
    assert isinstance(fusion, Fusion)
    known = [name for name in labels if name in prompts]
    if len(known) < 2:
        return []
    number = fusion.slots.index(slot)
    values = torch.cat([read(prompts[name]) for name in known]).to(real.labels_B.device)
    none_K, present_K1 = torch.full((len(known),), -1), torch.ones(len(known), 1, dtype=torch.bool)
    batch = Batch({slot: values}, {slot: present_K1}, none_K, torch.ones(len(known)), known).to(values.device)
    prompts_KD = _alone(fusion, slot_embeddings(fusion, batch), number)
    class_K = torch.tensor([labels.index(name) for name in known], device=values.device)
    e_BSD, mask_BS, rows = slot_embeddings(fusion, real), fusion.mask(real), []
    for other, given in enumerate(fusion.slots):
        asked_B = mask_BS[:, other] & torch.isin(real.labels_B, class_K)
        if other == number or not bool(asked_B.any()):
            continue
        nearest = (_alone(fusion, e_BSD[asked_B], other) @ prompts_KD.T).argmax(1)
        right = class_K[nearest] == real.labels_B[asked_B]
        rows.append(score(scores.ZERO_SHOT, [given], [slot], "fusion", wilson(int(right.sum()), len(right))))
    return rows


def _alone(fusion: Fusion, e_BSD: Tensor, number: int) -> Tensor:
    """The embedding (B, D) of one slot by itself."""
    only_BS = torch.zeros(e_BSD.shape[:2], dtype=torch.bool, device=e_BSD.device)
    only_BS[:, number] = True
    return fusion.fuse(e_BSD, only_BS)
