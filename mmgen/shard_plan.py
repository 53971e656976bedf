"""Which of a base version's shards stay, and what goes into new ones. Pure, and by columns: a row costs a few bytes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from mmgen.decision import split_rank
from mmgen.shard_config import ShardConfig

#: rows of base shards that are looked up at once, or a share of all where that is more: so many look-ups at most
WAVE_ROWS, MOST_WAVES = 16_384, 64


@dataclass(frozen=True, slots=True)
class BaseShard:
    """A shard of the base version. rows: `key` and `digest` of each. whole: its files are there with their sizes."""

    digest: str
    split: str
    rows: pl.DataFrame
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """shared: digests of base shards that stay. splits: of each shard to write, in order.

    shard_N: int32, for each row the shard to write that it goes into, -1 if it stays in a shared one.
    """

    shared: tuple[str, ...]
    splits: tuple[str, ...]
    shard_N: np.ndarray

    def places(self) -> list[np.ndarray]:
        """The places of the rows of each shard to write, ascending."""
        places_M = np.flatnonzero(self.shard_N >= 0)
        order_M = np.argsort(self.shard_N[places_M], kind="stable")
        ends = np.cumsum(np.bincount(self.shard_N[places_M], minlength=len(self.splits)))
        return np.split(places_M[order_M], ends[:-1]) if len(ends) else []


# places of rows (M,), ascending → bytes of each in a tar (M,)
Measure = Callable[[np.ndarray], np.ndarray]


def plan(rows: pl.DataFrame, base: Iterable[BaseShard], config: ShardConfig, seed: int, measure: Measure) -> Plan:
    """Which base shards stay, and what goes into new ones. The order of the rows does not enter.

    rows: `key` (unique), `split`, `digest` (compared, no more). measure: asked once, for the rows that are to be
    written.
    """
    names = sorted(rows["split"].unique().to_list(), key=split_rank)
    split_N = rows["split"].cast(pl.Enum(names)).to_physical().to_numpy()
    homes = _Homes(rows)
    for wave in _waves(base, max(WAVE_ROWS, rows.height // MOST_WAVES)):
        homes.find(wave)
    stays_B = np.array([*homes.stays, False])
    # what has no home yet comes after what has one
    home_N = np.where(homes.home_N < 0, len(homes.stays), homes.home_N).astype(np.int32)
    left_M = np.flatnonzero(~stays_B[home_N])
    size_M = measure(left_M)
    hash_M2 = _hashes(rows["key"].gather(left_M), seed)
    order_M = np.lexsort((hash_M2[:, 1], hash_M2[:, 0], home_N[left_M], split_N[left_M]))
    del hash_M2
    left_M, size_M = left_M[order_M], size_M[order_M]
    shard_N, splits = np.full(rows.height, -1, np.int32), list[str]()
    for start, end in _runs(split_N[left_M], home_N[left_M]):
        split = names[split_N[left_M[start]]]
        first = split not in homes.splits
        starts = _cut(size_M[start:end], config, config.min_shards_per_split if first else 1)
        lengths = np.diff([*starts, end - start])
        shard_N[left_M[start:end]] = np.repeat(np.arange(len(splits), len(splits) + len(starts)), lengths)
        splits += [split] * len(starts)
    shared = tuple(digest for digest, stays in zip(homes.digests, homes.stays, strict=True) if stays)
    return Plan(shared, tuple(splits), shard_N)


class _Homes:
    """The base shard that holds each row, by key and split; and which base shards hold all of theirs unchanged."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self._rows = rows.select("key", "digest", split=pl.col("split").cast(pl.String)).with_row_index("place")
        self.home_N = np.full(rows.height, -1, np.int32)
        self.digests: list[str] = []
        self.splits: set[str] = set()
        self.stays: list[bool] = []

    def find(self, wave: list[BaseShard]) -> None:
        """Take the next shards of the base."""
        numbered = enumerate(wave, len(self.stays))
        held = pl.concat(
            each.rows.select("key", was="digest").with_columns(home=pl.lit(number, pl.Int32), of=pl.lit(each.split))
            for number, each in numbered
        )
        found = held.join(self._rows, on="key", how="inner").filter(pl.col("of") == pl.col("split"))
        self.home_N[found["place"].to_numpy()] = found["home"].to_numpy()
        same = dict(found.filter(pl.col("was") == pl.col("digest")).group_by("home").len().iter_rows())
        for number, each in enumerate(wave, len(self.stays)):
            self.digests.append(each.digest)
            self.splits.add(each.split)
            self.stays.append(each.whole and same.get(number, 0) == each.rows.height)


def _waves(base: Iterable[BaseShard], rows: int) -> Iterator[list[BaseShard]]:
    wave, held = list[BaseShard](), 0
    for each in base:
        wave.append(each)
        held += each.rows.height
        if held >= rows:
            yield wave
            wave, held = [], 0
    if wave:
        yield wave


def _hashes(keys: pl.Series, seed: int) -> np.ndarray:
    """(M, 2) uint64: the first half of a hash of seed and key, for an order that no other row can change."""
    hash_M2 = np.empty((len(keys), 2), np.uint64)
    for start in range(0, len(keys), WAVE_ROWS):
        some = keys.slice(start, WAVE_ROWS)
        digests = b"".join([hashlib.sha256(f"{seed}\0shard\0{key}".encode()).digest()[:16] for key in some])
        hash_M2[start : start + len(some)] = np.frombuffer(digests, ">u8").reshape(-1, 2)
    return hash_M2


def _runs(*columns: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of the runs of rows that agree in all columns."""
    count = len(columns[0])
    if not count:
        return []
    changes = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), count]
    return list(itertools.pairwise(edges))


def _cut(size_M: np.ndarray, config: ShardConfig, least: int) -> list[int]:
    """Starts of even runs under both caps, at least `least` as far as there are rows. One above the cap is alone."""
    rows = len(size_M)
    total_M = np.concatenate(([0], np.cumsum(size_M, dtype=np.int64)))
    count = max(-(-rows // config.max_samples), -(-int(total_M[-1]) // config.max_bytes), least)
    count = min(count, rows)
    starts: list[int] = []
    for number in range(count):
        at, end = number * rows // count, (number + 1) * rows // count
        while at < end:
            starts.append(at)
            fits = int(np.searchsorted(total_M, total_M[at] + config.max_bytes, side="right")) - 1
            at = min(end, max(fits, at + 1))
    return starts
