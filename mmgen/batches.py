"""Feature shards → batches of (value, mask) per slot, in an order that is a function of (seed, epoch, version)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmgen.artifact import Artifact
from mmgen.errors import IntegrityError
from mmgen.features import FeatureSet, FeatureShard, SlotLayout, SlotRows
from mmgen.order import noise, order, window
from mmgen.store import Store

NO_LABEL = -1
# the slot of a pooled set
VALUE = "value"


@dataclass(frozen=True)
class Batch:
    """B samples. Shapes: values[slot] (B, …); masks[slot] bool (B, T), T = 1 for tensors and pooled features.

    An absent slot has a mask of False and zeros for its value. labels_B: class index, -1 for none.
    weights_B: 0 for a padding row (a copy of another row of the epoch), else 1.
    """

    values: dict[str, Tensor]
    masks: dict[str, Tensor]
    labels_B: Tensor
    weights_B: Tensor
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch elsewhere; copies from pinned memory do not wait."""

        return self._each(lambda tensor: tensor.to(device, non_blocking=True), self.keys)

    def rows(self, start: int, stop: int) -> Batch:
        """Rows start:stop, as views."""
        return self._each(lambda tensor: tensor[start:stop], self.keys[start:stop])

    def presence(self, slots: Sequence[str]) -> Tensor:
        """Which of these slots each row has, (B, S) bool; one that the batch does not name is absent."""
        nothing_B = torch.zeros(len(self), dtype=torch.bool, device=self.weights_B.device)
        return torch.stack([self.masks[slot].any(1) if slot in self.values else nothing_B for slot in slots], dim=1)

    def take(self, places: Tensor) -> Batch:
        """The rows at these places (N,), which may repeat."""
        return self._each(lambda tensor: tensor[places], [self.keys[place] for place in places.tolist()])

    def _each(self, change: Callable[[Tensor], Tensor], keys: list[str]) -> Batch:
        values = {slot: change(value) for slot, value in self.values.items()}
        masks = {slot: change(mask) for slot, mask in self.masks.items()}
        return Batch(values, masks, change(self.labels_B), change(self.weights_B), keys)


class Samples:
    """Rows of several feature shards as one indexable set; nothing is copied until rows are gathered.

    labels: class names in index order; a label outside them counts as none. drawn_with: slot → the slot whose
    alternatives it shares.
    """

    def __init__(
        self,
        shards: Sequence[FeatureShard],
        labels: Sequence[str] | None = None,
        drawn_with: Mapping[str, str] | None = None,
    ) -> None:
        if not shards:
            raise IntegrityError("features: wanted at least one shard, came none")
        self.shards = list(shards)
        self.layouts: dict[str, SlotLayout] = self.shards[0].layouts
        for shard in self.shards[1:]:
            if shard.layouts != self.layouts:
                raise IntegrityError("features: shards of one set differ in their slots or shapes")
        self.label_names, self.drawn_with = tuple(labels or ()), dict(drawn_with or {})
        self.starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        index = {name: number for number, name in enumerate(labels or ())}
        self.labels = np.array(
            [NO_LABEL if label is None else index.get(label, NO_LABEL) for shard in shards for label in shard.labels],
            dtype=np.int64,
        )
        self.counts = {slot: np.concatenate([s.slots[slot].counts for s in self.shards]) for slot in self.layouts}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def pooled(self, slots: Sequence[str], labels: Sequence[str] | None = None) -> Samples:
        """A set whose one slot, `value`, holds what any of these slots (of one modality) holds; nothing is copied."""
        shards = [
            FeatureShard(
                shard.feature_set, shard.fingerprint, shard.media_digest, shard.keys, shard.labels,
                {VALUE: shard.layouts[slot]}, {VALUE: shard.slots[slot]},
            )
            for shard in self.shards
            for slot in slots
        ]  # fmt: skip
        return Samples(shards, labels)

    def beside(self, slot: str, name: str, rows: Sequence[np.ndarray | None]) -> Samples:
        """The same samples with a further slot: one row (R, …) per alternative of `slot`, drawn together with it.

        rows: of each shard, all of one dtype; None where no sample of it has `slot`.
        """
        first = next((each for each in rows if each is not None), np.zeros((0,), dtype=np.float32))
        shape = tuple(first.shape[1:])
        layout = SlotLayout(self.layouts[slot].modality, shape, str(first.dtype))
        shards = []
        for shard, made in zip(self.shards, rows, strict=True):
            filled = np.zeros((0, *shape), dtype=first.dtype) if made is None else made
            further = {name: SlotRows(filled, shard.slots[slot].offsets)}
            shards.append(replace(shard, layouts={**shard.layouts, name: layout}, slots={**shard.slots, **further}))
        return Samples(shards, self.label_names, {**self.drawn_with, name: slot})

    @property
    def keys(self) -> list[str]:
        """All keys, in index order."""
        return [key for shard in self.shards for key in shard.keys]

    def tokens(self, slot: str) -> int:
        """T of a slot's mask: the tokens of its latent or of its encoder, 1 for tensors and single vectors."""
        shape = self.layouts[slot].shape
        return shape[0] if len(shape) == 2 and self.shards[0].feature_set != "tensors" else 1

    def padded(self, slot: str) -> bool:
        """Whether a token of zeros is padding, as of an encoder's texts."""
        return self.shards[0].feature_set == "embeddings" and len(self.layouts[slot].shape) == 2

    def having(self, slot: str) -> np.ndarray:
        """Indices of the samples that have `slot`."""
        return np.flatnonzero(self.counts[slot] > 0)

    def gather(self, slot: str, indices: np.ndarray, alternatives: np.ndarray) -> np.ndarray:
        """Compact rows (B, *shape) of `slot`; zeros where it is missing. alternatives: which one of each sample."""
        layout = self.layouts[slot]
        out = np.zeros((len(indices), *layout.shape), dtype=layout.dtype)
        where = np.searchsorted(self.starts, indices, side="right") - 1
        present = self.counts[slot][indices] > 0
        for number in np.unique(where[present]):
            chosen = np.flatnonzero((where == number) & present)
            rows = self.shards[number].slots[slot]
            local = indices[chosen] - self.starts[number]
            out[chosen] = rows.rows[rows.offsets[local] + alternatives[chosen]]
        return out


def open_samples(
    store: Store, features: Artifact, feature_set: FeatureSet, split: str, labels: Sequence[str] | None = None
) -> Samples | None:
    """One feature set of one split, mapped from the store (or its cache); None if the split has no shards.

    labels: class names in index order; those that the features were made with if None. Raises IntegrityError.
    """
    shards = []
    for entry in features.by_role("features"):
        if (entry.facts["set"], entry.facts["split"]) != (feature_set, split):
            continue
        shard = FeatureShard.open(store.local_path(entry.path))
        shard.check(fingerprint=entry.facts["fingerprint"], media_digest=entry.facts["digest"])
        if len(shard) != entry.facts["samples"]:
            raise IntegrityError(f"{entry.path}: {len(shard)} samples, its media shard has {entry.facts['samples']}")
        shards.append(shard)
    return Samples(shards, features.facts["labels"] if labels is None else labels) if shards else None


# compact rows (B, …) → value (B, …), for one slot
ToValue = Callable[[Tensor], Tensor]


class Loader:
    """Endless batches over epochs, globally shuffled, resumable at any batch.

    The state is one integer, `consumed`: samples given out since the start (by all ranks together). Each global batch
    has `batch_size` rows in every epoch; the last of an epoch is padded with copies of weight 0. Rank r of `world`
    takes the r-th of `world` equal slices. Of several alternatives (captions) one is drawn per epoch.

    to_value: slot → compact to value; a slot without one is passed on as float32. slots: which to give out.
    indices: the samples to use (all if None). shuffle=False gives one fixed order, first alternatives.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        seed: int = 0,
        to_value: Mapping[str, ToValue] | None = None,
        slots: Sequence[str] | None = None,
        indices: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch_size % world:
            raise IntegrityError(f"batch_size: wanted a multiple of the {world} processes, came {batch_size}")
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.to_value = dict(to_value or {})
        self.slots = list(samples.layouts if slots is None else slots)
        self.indices = np.arange(len(samples)) if indices is None else np.asarray(indices)
        if len(self.indices) == 0:
            raise IntegrityError(f"features: no sample has what was asked for (slots {', '.join(self.slots)})")
        self.rank, self.world, self.shuffle, self.device = rank, world, shuffle, torch.device(device)
        self.consumed = 0
        #: rows of the last global batch that were no padding
        self.real = 0
        self._order: tuple[int, np.ndarray] | None = None
        self._drawn: dict[str, tuple[int, np.ndarray]] = {}
        self._keys = samples.keys

    @property
    def per_epoch(self) -> int:
        """Global batches of one epoch."""
        return -(-len(self.indices) // self.batch_size)

    @property
    def epoch(self) -> int:
        """Epochs that are complete."""
        return self.consumed // len(self.indices)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            count = len(self.indices)
            ranks = order(count, self.seed, epoch) if self.shuffle else np.arange(count)
            self._order = (epoch, self.indices[ranks])
        return self._order[1]

    def next(self) -> Batch:
        """This rank's slice of the next global batch."""
        mine = window(len(self.indices), self.batch_size, self.consumed, self.rank, self.world)
        rows = self._epoch_order(mine.epoch)[mine.places_B]
        self.consumed += mine.real
        self.real = mine.real
        return self._batch(rows, mine.weights_B, mine.epoch)

    def _batch(self, rows: np.ndarray, weights: np.ndarray, epoch: int) -> Batch:
        values, masks = {}, {}
        for slot in self.slots:
            counts = self.samples.counts[slot][rows]
            drawn = np.zeros(len(rows), dtype=np.int64)
            if self.shuffle and counts.max() > 1:
                drawn = self._draws(epoch, self.samples.drawn_with.get(slot, slot))[rows]
            compact = torch.from_numpy(self.samples.gather(slot, rows, drawn))
            present = torch.from_numpy(counts > 0)
            convert = self.to_value.get(slot)
            moved = self._moved(compact)
            value = moved.float() if convert is None else convert(moved)
            on_device = self._moved(present)
            if not counts.all():
                # an absent slot's value is zeros, whatever its conversion makes of zeros
                value = value * on_device.view(-1, *[1] * (value.dim() - 1)).to(value.dtype)
            values[slot] = value
            masks[slot] = on_device[:, None].expand(-1, self.samples.tokens(slot))
            if self.samples.padded(slot):
                masks[slot] = masks[slot] & value.ne(0).any(dim=-1)
        return Batch(
            values,
            masks,
            self._moved(torch.from_numpy(self.samples.labels[rows])),
            self._moved(torch.from_numpy(weights)),
            [self._keys[row] for row in rows],
        )

    def _draws(self, epoch: int, slot: str) -> np.ndarray:
        """Which alternative of `slot` each sample (N,) gives in this epoch."""
        if self._drawn.get(slot, (-1, None))[0] != epoch:
            counts = np.maximum(self.samples.counts[slot], 1).astype(np.uint64)
            drawn = noise(self.seed, epoch, 1 + zlib.crc32(slot.encode()), len(self.samples))
            self._drawn[slot] = (epoch, (drawn % counts).astype(np.int64))
        return self._drawn[slot][1]

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch from its beginning; does not touch `consumed` for good."""
        before, self.consumed = self.consumed, 0
        try:
            for _ in range(self.per_epoch):
                yield self.next()
        finally:
            self.consumed = before
