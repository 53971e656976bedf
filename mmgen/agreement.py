"""Which of several samples of one condition is kept: the one that goes best with what was given.

The model's own fusion judges, as a network trained on pairs ranked the first text-to-image samples (Ramesh et al. 2021,
arXiv:2102.12092, section 2.6); the judges of an evaluation are never asked.

Shape suffixes: B batch, N rows that each have B / N samples, S slots, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.batches import Batch


def comparable(given: Batch, to: Sequence[str]) -> bool:
    """Whether samples of the slots `to` have anything beside them that they could agree with."""
    others = [mask for slot, mask in given.masks.items() if slot not in to]
    return len(to) > 1 or any(bool(mask.any()) for mask in others)


@torch.no_grad()
def agreement(fusion: nn.Module, given: Batch, made: Mapping[str, Tensor]) -> Tensor:
    """How well samples go with what they were made from, and with each other: (B,) float32 in [-1, 1].

    The mean over made slots of the cosine between the embedding of the slot alone and that of all else, given and
    made, together; 0 where there is nothing else. given, made: `tensors` values (B, …).
    """
    network: Any = fusion
    there = {slot: torch.ones_like(given.masks[slot]) for slot in made}
    whole = replace(given, values={**given.values, **made}, masks={**given.masks, **there})
    e_BSD, mask_BS = network.slot_embeddings(whole), network.mask(whole)
    found = torch.zeros(len(whole), device=mask_BS.device)
    for slot in made:
        alone_S = torch.tensor([name == slot for name in network.slots], device=mask_BS.device)
        rest_BS = mask_BS & ~alone_S
        one_BD, rest_BD = network.fuse(e_BSD, mask_BS & alone_S), network.fuse(e_BSD, rest_BS)
        cosine_B = torch.nn.functional.cosine_similarity(one_BD, rest_BD)
        found += torch.where(rest_BS.any(1), cosine_B, 0.0) / len(made)
    return found


def best(made: Mapping[str, Tensor], agreement_B: Tensor, candidates: int) -> dict[str, Tensor]:
    """Of each row's `candidates` samples, which stand one after another, the one that agrees best: (N, …)."""
    scores_NC = agreement_B.reshape(-1, candidates)
    first_N = torch.arange(len(scores_NC), device=agreement_B.device) * candidates
    places_N = first_N + scores_NC.argmax(1)
    return {slot: value[places_N] for slot, value in made.items()}
