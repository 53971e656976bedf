"""A dataset version to read: samples by key, and batches in an order that is a function of (seed, epoch, version).

    dataset = mmgen.open("my-pairs@3")
    for batch in dataset.loader("train", batch_size=256, seed=1):
        ...

Every byte is checked against the shard's index as it is read.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mmgen import artifact
from mmgen.artifact import Artifact, FileEntry, Reference
from mmgen.errors import ConfigError, IntegrityError, UnknownReference, unknown_name
from mmgen.modalities.table import MODALITIES
from mmgen.order import order, window
from mmgen.store import Store
from mmgen.tables import read_parquet
from mmgen.tars import TarIndex, TarReader, safe_key

#: shards that are held open at once, by each dataset
OPEN_SHARDS = 64


@dataclass(frozen=True, slots=True)
class Item:
    """A sample. values: slot → its media's bytes (or decoded array), or its texts; absent ones are not in.

    exts: media slot → canonical extension.
    """

    key: str
    split: str
    values: Mapping[str, Any]
    exts: Mapping[str, str]
    label: str | None
    group: str | None
    meta: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """A rank's slice of a global batch. weights_B: float32, 0 for a padding sample, which repeats another one."""

    items: tuple[Item, ...]
    weights_B: np.ndarray
    epoch: int

    def __len__(self) -> int:
        return len(self.items)


class Dataset:
    """The samples of a committed version."""

    def __init__(self, store: Store, version: Artifact) -> None:
        self.store, self.version = store, version
        self.slots: dict[str, Any] = {name: each["modality"] for name, each in version.facts["slots"].items()}
        self._shards: tuple[FileEntry, ...] = version.by_role("shard")
        self._facts = {entry.facts["digest"]: entry for entry in version.by_role("facts")}
        self._readers: OrderedDict[int, TarReader] = OrderedDict()
        self._keys: dict[str, tuple[pl.Series, np.ndarray]] = {}
        self._shard_of: dict[str, int] | None = None

    @property
    def splits(self) -> dict[str, int]:
        """Split → samples."""
        return dict(self.version.facts["splits"])

    def __len__(self) -> int:
        return sum(self.splits.values())

    def keys(self, split: str | None = None) -> list[str]:
        """The keys of a split in the order of its shards; of all splits if None. Raises UnknownReference."""
        names = list(self.splits) if split is None else [split]
        return [key for name in names for key in self._split(name)[0].to_list()]

    def shard_keys(self, digest: str) -> list[str]:
        """The keys of the shard of this digest, in its order. Raises KeyError."""
        return read_parquet(self.store, self._facts[digest].path, ["key"])["key"].to_list()

    def __contains__(self, key: str) -> bool:
        return key in self._places()

    def __getitem__(self, key: str) -> Item:
        """The sample of this key. Raises KeyError, IntegrityError."""
        return self._read(self._places()[key], key)

    def loader(self, split: str, *, batch_size: int, seed: int = 0, rank: int = 0, world: int = 1,
               shuffle: bool = True, decode: bool = False) -> ItemLoader:  # fmt: skip
        """Endless batches of a split; see `ItemLoader`. Raises UnknownReference, ConfigError."""
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            said = f"batch_size {batch_size}, rank {rank}, world {world}"
            raise ConfigError(f"loader: wanted a batch_size that the ranks share evenly and rank < world, came {said}")
        return ItemLoader(self, split, batch_size, seed, rank, world, shuffle=shuffle, decode=decode)

    def close(self) -> None:
        """Close the shards that are open."""
        while self._readers:
            self._readers.popitem()[1].close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _split(self, name: str) -> tuple[pl.Series, np.ndarray]:
        """Keys (N,), and the shard of each (N,)."""
        if name not in self.splits:
            raise UnknownReference(f"{self.version.ref}: {unknown_name('split', name, self.splits)}")
        if name not in self._keys:
            numbers = [number for number, each in enumerate(self._shards) if each.facts["split"] == name]
            tables = [self._shard_keys(number) for number in numbers]
            owners = np.repeat(np.array(numbers, np.int32), [len(each) for each in tables])
            self._keys[name] = (pl.concat(tables), owners)
        return self._keys[name]

    def _shard_keys(self, number: int) -> pl.Series:
        entry = self._facts[self._shards[number].facts["digest"]]
        return read_parquet(self.store, entry.path, ["key"])["key"]

    def _places(self) -> dict[str, int]:
        """Key → shard."""
        if self._shard_of is None:
            self._shard_of = {}
            for name in self.splits:
                keys, owners = self._split(name)
                self._shard_of |= dict(zip(keys.to_list(), owners.tolist(), strict=True))
        return self._shard_of

    def _reader(self, number: int) -> TarReader:
        if number not in self._readers:
            path = self._shards[number].path
            index = TarIndex.from_bytes(self.store.read(f"{path}.idx"), f"{path}.idx")
            if index.sha256 != self._shards[number].sha256:
                raise IntegrityError(f"{path}.idx: is not the index of the tar that {self.version.ref} names")
            self._readers[number] = TarReader(self.store.local_path(path), index)
            if len(self._readers) > OPEN_SHARDS:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(number)
        return self._readers[number]

    def _read(self, number: int, key: str, *, decode: bool = False) -> Item:
        members = self._reader(number).sample(safe_key(key))
        about = json.loads(members.pop("json"))
        values: dict[str, Any] = {slot: tuple(texts) for slot, texts in about["texts"].items()}
        exts = {}
        for suffix, data in members.items():
            slot, _, ext = suffix.rpartition(".")
            # the three default slots drop the slot's name
            slot = slot or next(each for each, m in self.slots.items() if each == m and ext in MODALITIES[m].extensions)
            if self.slots[slot] != "text":
                values[slot] = MODALITIES[self.slots[slot]].decode(data) if decode else data
                exts[slot] = ext
        return Item(about["key"], self._shards[number].facts["split"], values, exts, about["label"], about["group"],
                    about["meta"])  # fmt: skip


class ItemLoader:
    """Endless global batches of a split, of which this is one rank's part; made by `Dataset.loader`.

    Iterating gives the rest of the current epoch. Its state is one integer, `consumed`: samples given out since the
    start by all ranks together; so a run goes on in mid-epoch with another number of ranks or workers, exactly.
    """

    def __init__(self, dataset: Dataset, split: str, batch_size: int, seed: int, rank: int, world: int, *,
                 shuffle: bool, decode: bool) -> None:  # fmt: skip
        self.dataset, self.split, self.batch_size, self.seed = dataset, split, batch_size, seed
        self.rank, self.world, self.shuffle, self.decode = rank, world, shuffle, decode
        self._keys, self._owners = dataset._split(split)
        self._order: tuple[int, np.ndarray] | None = None
        self.consumed = 0

    def __len__(self) -> int:
        """Global batches of an epoch, the same for every rank."""
        return -(-len(self._keys) // self.batch_size)

    def next(self) -> ItemBatch:
        """The next batch, over the end of the epoch too. Raises IntegrityError."""
        mine = window(len(self._keys), self.batch_size, self.consumed, self.rank, self.world)
        rows = self._epoch_order(mine.epoch)[mine.places_B].tolist()
        items = tuple(
            self.dataset._read(int(self._owners[row]), self._keys[row], decode=self.decode) for row in rows
        )  # fmt: skip
        self.consumed += mine.real
        return ItemBatch(items, mine.weights_B, mine.epoch)

    def __iter__(self) -> Iterator[ItemBatch]:
        """What is left of the current epoch."""
        epoch = self.consumed // len(self._keys)
        while self.consumed < (epoch + 1) * len(self._keys):
            yield self.next()

    def state_dict(self) -> dict[str, Any]:
        """Where it is: `consumed`, and of what."""
        return {"consumed": self.consumed, "seed": self.seed, "split": self.split,
                "dataset": self.dataset.version.ref, "fingerprint": self.dataset.version.fingerprint}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises ConfigError if the state is of another version, split or seed."""
        mine = self.state_dict()
        for name in ("fingerprint", "split", "seed"):
            if state.get(name) != mine[name]:
                raise ConfigError(
                    f"loader: its state is of {state.get('dataset')}, {name} {state.get(name)}; wanted "
                    f"{mine['dataset']}, {name} {mine[name]}: an order goes on only over the samples that it began with"
                )
        self.consumed = int(state["consumed"])

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            count = len(self._keys)
            self._order = (epoch, order(count, self.seed, epoch) if self.shuffle else np.arange(count))
        return self._order[1]


def open_dataset(reference: str, store: Store) -> Dataset:
    """`[dataset:]name[@version]`, the newest version that passed its gate if none is given. Raises UnknownReference."""
    wanted = Reference.parse(reference)
    if wanted.kind not in (None, "dataset") or wanted.alias is not None:
        raise UnknownReference(f"'{reference}': wanted a dataset version, [dataset:]name[@version]")
    if wanted.version is not None:
        return Dataset(store, artifact.load(store, "dataset", wanted.name, wanted.version))
    latest = artifact.latest(store, "dataset", wanted.name, passed=True)
    if latest is None:
        known = artifact.names(store, "dataset")
        raise UnknownReference(f"{unknown_name('dataset', wanted.name, known)} in {store.uri}")
    return Dataset(store, latest)
