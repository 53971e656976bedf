"""Feature shards in memory: small sets of samples for tests of batches and of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmgen.batches import Samples
from mmgen.features import FeatureSet, FeatureShard, SlotLayout, SlotRows

IMAGE = SlotLayout("image", (1, 4, 4), "uint8")
TEXT = SlotLayout("text", (3,), "int32")
LATENT = SlotLayout("image", (2, 3), "float32")
LABELS = ("0", "1", "2")


def shard(
    count: int,
    name: str = "a",
    *,
    feature_set: FeatureSet = "tensors",
    alternatives: Callable[[int], int] = lambda number: 1 + number % 3,
    present: Callable[[int], bool] = lambda number: True,
) -> FeatureShard:
    """`count` samples: an image whose first pixel tells its number, texts [number, alternative, 7], labels by turns."""
    images, texts = [], []
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 255, IMAGE.shape, dtype=np.uint8)
        image[0, 0, 0] = number % 256
        images.append([image] if present(number) else [])
        texts.append([np.array([number, each, 7], np.int32) for each in range(alternatives(number))])
    return FeatureShard(
        feature_set, "f", name, [f"{name}{number}" for number in range(count)],
        [LABELS[number % 3] for number in range(count)], {"image": IMAGE, "text": TEXT},
        {"image": SlotRows.stack(images, IMAGE), "text": SlotRows.stack(texts, TEXT)},
    )  # fmt: skip


def latents(count: int, name: str = "a") -> FeatureShard:
    """`count` samples of one latent slot, every third of them missing."""
    rows = [[np.full(LATENT.shape, number, np.float32)] if number % 3 else [] for number in range(count)]
    return FeatureShard(
        "latents", "f", name, [f"{name}{number}" for number in range(count)], [None] * count, {"image": LATENT},
        {"image": SlotRows.stack(rows, LATENT)},
    )  # fmt: skip


def samples(shards: Sequence[FeatureShard]) -> Samples:
    return Samples(shards, LABELS)
