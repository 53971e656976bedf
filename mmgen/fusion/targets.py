"""Labels as numbers that a head can learn, where one class index is not all that they say.

Shape suffixes: N rows, K classes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mmgen.batches import Batch, Samples
from mmgen.errors import ConfigError
from mmgen.features import SlotLayout, SlotRows
from mmgen.fusion.heads import NONE

#: the slot in which a batch brings targets; no slot of a configuration can be called so
TARGET = "label.target"


@dataclass(frozen=True, slots=True)
class Target:
    """How labels are read. kind: a head's. names: classes in index order. mean, std: of numbers, over the training
    labels. separator: between the classes of a set."""

    kind: str
    names: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    separator: str = "|"

    @property
    def outputs(self) -> int:
        """K of the head; 0 where there is nothing to learn."""
        return len(self.names)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return 1 if self.kind == "classification" else self.outputs

    def row(self, label: str, where: str) -> np.ndarray:
        """float32 (width,) of one label: a class index, a set as 0 and 1, or a standardised number.

        A class that training did not have counts as none (index -1). Raises ConfigError.
        """
        if self.kind == "regression":
            return np.array([(number(label, where) - self.mean) / self.std], np.float32)
        if self.kind == "classification":
            return np.array([self.names.index(label) if label in self.names else NONE], np.float32)
        parts = classes_in(label, self.separator)
        return np.array([name in parts for name in self.names], np.float32)


def number(label: str, where: str) -> float:
    """A finite number. Raises ConfigError."""
    try:
        found = float(label)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"{where}: label: regression wants a finite number, came '{label}'")
    return found


def read_targets(kind: str, labels: Sequence[str | None], keys: Sequence[str], separator: str = "|") -> Target:
    """The target of a training set's labels. Raises ConfigError: for numbers that are none."""
    there = [(label, key) for label, key in zip(labels, keys, strict=True) if label is not None]
    if kind == "regression":
        numbers = [number(label, key) for label, key in there]
        if not numbers:
            return Target(kind)
        return Target(kind, ("number",), statistics.fmean(numbers), statistics.pstdev(numbers) or 1.0)
    if kind == "multi_label":
        names = {part for label, _ in there for part in classes_in(label, separator)}
    else:
        names = {label for label, _ in there}
    return Target(kind, tuple(sorted(names)), separator=separator)


def classes_in(label: str, separator: str) -> set[str]:
    """The classes that a label names."""
    return {part.strip() for part in label.split(separator)} - {""}


def with_targets(samples: Samples, target: Target) -> Samples:
    """The same samples with their targets beside them, in the slot `TARGET`; missing where there is no label."""
    layout = SlotLayout("label", (target.width,), "float32")
    shards = []
    for shard in samples.shards:
        rows = [
            [] if label is None else [target.row(label, key)]
            for label, key in zip(shard.labels, shard.keys, strict=True)
        ]
        more = SlotRows.stack(rows, layout)
        shards.append(replace(shard, layouts={**shard.layouts, TARGET: layout}, slots={**shard.slots, TARGET: more}))
    return Samples(shards, samples.label_names, samples.drawn_with)


def batch_with_targets(batch: Batch, target: Target, labels: Sequence[str | None]) -> Batch:
    """The same batch with its rows' targets in the slot `TARGET`, of the labels as the source says them."""
    rows = [None if label is None else target.row(label, key) for label, key in zip(labels, batch.keys, strict=True)]
    nothing = np.zeros(target.width, np.float32)
    wanted = torch.from_numpy(np.stack([nothing if row is None else row for row in rows]))
    there_B1 = torch.tensor([[row is not None] for row in rows])
    device = batch.weights_B.device
    return replace(
        batch, values={**batch.values, TARGET: wanted.to(device)}, masks={**batch.masks, TARGET: there_B1.to(device)}
    )


def labels_of(samples: Samples) -> tuple[list[str | None], list[str]]:
    """(labels as the source says them, keys), in index order."""
    return [label for shard in samples.shards for label in shard.labels], samples.keys
