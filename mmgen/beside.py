"""What a generator learns from beside latents: fusion embeddings and token ids of the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mmgen.batches import Samples
from mmgen.codec_set import CodecSet
from mmgen.codecs.text import PAD
from mmgen.generators.autoregressive import ids_key
from mmgen.generators.joint_flow import embedding_key
from mmgen.maker import ROWS, embed_slot


def with_embeddings(
    latents: Samples, tensors: Samples, fusion: nn.Module, codecs: CodecSet, device: torch.device
) -> Samples:
    """`latents` with each slot's own fusion embedding (1, E) beside it, for every alternative.

    tensors: the same samples of the other feature set, which the fusion model reads.
    """
    network: Any = fusion
    for slot, how in codecs.preprocesses.items():
        found: list[np.ndarray | None] = []
        for shard in tensors.shards:
            rows = shard.slots[slot].rows
            made = []
            for at in range(0, len(rows), ROWS):
                compact = torch.from_numpy(np.array(rows[at : at + ROWS])).to(device)
                made.append(embed_slot(fusion, slot, how.value(compact)).cpu().numpy())
            # a slot that no sample of a split has still has embeddings of its width
            found.append(np.concatenate(made)[:, None] if made else np.zeros((0, 1, network.width), np.float32))
        latents = latents.beside(slot, embedding_key(slot), found)
    return latents


def with_ids(latents: Samples, tensors: Samples, slots: Sequence[str]) -> Samples:
    """`latents` with the token ids (L,) of these text slots beside them. tensors: the same samples, which hold them.

    L is that of the longest of their texts: what none of them has is padding, which would be computed in vain.
    """
    rows = {slot: [shard.slots[slot].rows for shard in tensors.shards] for slot in slots}
    everything = [ids for each in rows.values() for ids in each if len(ids)]
    longest = max((int((ids != PAD).sum(1).max()) for ids in everything), default=1)
    for slot, each in rows.items():
        latents = latents.beside(slot, ids_key(slot), [ids[:, :longest] for ids in each])
    return latents
