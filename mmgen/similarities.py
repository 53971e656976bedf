"""Similarities of each sample's slots, beside those of slots of different samples: the table of pair scores.

Shape suffixes: N rows of a batch, P samples, D width.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from mmgen.features import SlotRows
from mmgen.records import Modality

#: samples, drawn by the hash of their keys, that every sample is compared with
AMONG = 100
#: the worst samples, for which one is looked for that fits better
SUSPECTS = 1_000


@dataclass(frozen=True)
class Rows:
    """One batch's rows: their numbers (N,), ascending, their keys, and each slot's vectors of unit length, (1, D)."""

    rows_N: np.ndarray
    keys: list[str]
    slots: Mapping[str, SlotRows]

    def has(self, *slots: str) -> np.ndarray:
        """Places of the rows that have all of these slots."""
        there = [self.slots[slot].counts > 0 for slot in slots]
        places: np.ndarray = np.flatnonzero(np.all([np.ones(len(self.keys), dtype=bool), *there], axis=0))
        return places

    def vectors(self, slot: str, places: np.ndarray) -> np.ndarray:
        """(P, D) float32 of rows that have the slot."""
        found = self.slots[slot]
        out: np.ndarray = found.rows[found.offsets[places]].astype(np.float32)[:, 0]
        return out


@dataclass(frozen=True)
class Some:
    """Some samples of all batches: numbers (P,), keys, and per slot (P, D), NaN where it is missing."""

    rows_P: np.ndarray
    keys: list[str]
    e_PD: Mapping[str, np.ndarray]

    @classmethod
    def gather(cls, batches: Sequence[Rows], places: Sequence[tuple[int, int]], slots: Sequence[str]) -> Some:
        """places: (batch, place in it)."""
        rows = np.array([batches[b].rows_N[at] for b, at in places], dtype=np.int64)
        e_PD = {slot: np.array([_one(batches[b], slot, at) for b, at in places]) for slot in slots}
        return cls(rows, [batches[b].keys[at] for b, at in places], e_PD)


def _one(batch: Rows, slot: str, place: int) -> np.ndarray:
    """(D,), NaN where the slot is missing."""
    if not batch.slots[slot].counts[place]:
        return np.full(batch.slots[slot].rows.shape[-1], np.nan, dtype=np.float32)
    (found_D,) = batch.vectors(slot, np.array([place]))
    out: np.ndarray = found_D
    return out


def compare(batches: Sequence[Rows], slots: Mapping[str, Modality]) -> pl.DataFrame:
    """The table of `data_schemas/pairs.py`, by row."""
    among = {}
    for given, other in itertools.combinations(sorted(slots), 2):
        drawn = _drawn(batches, given, other)
        if len(drawn) > 1:
            among[given, other] = Some.gather(batches, drawn, (given, other))
    parts = [_by_batch(rows, among) for rows in batches] or [_nothing()]
    known = _known(parts)
    # batch by batch and in place: a table of all rows is there once
    for at, part in enumerate(parts):
        parts[at] = _with_odd(part, known, slots)
    better = _better_ones(parts, batches, sorted(slots), known)
    for at, part in enumerate(parts):
        parts[at] = part.drop("badness").join(better, on=["row", "given", "other"], how="left", maintain_order="left")
    return pl.concat(parts, rechunk=False)


def _by_batch(rows: Rows, among: Mapping[tuple[str, str], Some]) -> pl.DataFrame:
    found = [_similarities(rows, given, other, some) for (given, other), some in among.items()]
    return pl.concat([_nothing(), *found]).sort("row", "given", "other")


def _known(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Per pair of slots: median and interquartile range (`spread`) of all similarities, and `low`, from which a pair is
    one that fits: nearer to all pairs than to shuffled ones."""
    whole = pl.concat([part.select("given", "other", "similarity", "shuffled") for part in parts])
    own = pl.col("similarity")
    return whole.group_by("given", "other").agg(
        median=own.median(),
        spread=pl.max_horizontal(own.quantile(0.75) - own.quantile(0.25), pl.lit(1e-6)),
        low=0.75 * own.median() + 0.25 * pl.col("shuffled").median(),
    )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _drawn(batches: Sequence[Rows], *slots: str) -> list[tuple[int, int]]:
    """(batch, place) of the samples that all others are compared with: the least hashes of their keys."""
    everyone = (
        (_hash(batch.keys[at]), number, int(at)) for number, batch in enumerate(batches) for at in batch.has(*slots)
    )
    return [(number, at) for _, number, at in heapq.nsmallest(AMONG, everyone)]


def _similarities(batch: Rows, given: str, other: str, among: Some) -> pl.DataFrame:
    """One pair of slots of a batch's rows, and the same with the slots of the samples drawn."""
    places = batch.has(given, other)
    a_ND, b_ND = batch.vectors(given, places), batch.vectors(other, places)
    own_N = (a_ND * b_ND).sum(1)
    left_NP, right_NP = a_ND @ among.e_PD[other].T, b_ND @ among.e_PD[given].T
    # a sample is no other sample to itself
    others_NP = batch.rows_N[places][:, None] != among.rows_P[None]
    above_N = ((left_NP > own_N[:, None]) & others_NP).sum(1) + ((right_NP > own_N[:, None]) & others_NP).sum(1)
    turn_N = np.array([int.from_bytes(_hash(batch.keys[at])[:4]) for at in places], dtype=np.int64)
    pick_N = turn_N % len(among.keys)
    each_N = np.arange(len(places))
    pick_N = np.where(others_NP[each_N, pick_N] if len(places) else True, pick_N, (pick_N + 1) % len(among.keys))
    return pl.DataFrame(
        {
            "row": batch.rows_N[places], "key": [batch.keys[at] for at in places],
            "given": [given] * len(places), "other": [other] * len(places),
            "similarity": np.clip(own_N, -1, 1), "shuffled": np.clip(left_NP[each_N, pick_N], -1, 1),
            "outranked": above_N / (2 * others_NP.sum(1)), "among": others_NP.sum(1),
        },
        schema=_nothing().schema,
    )  # fmt: skip


def _nothing() -> pl.DataFrame:
    return pl.DataFrame(schema={
        "row": pl.Int64, "key": pl.String, "given": pl.String, "other": pl.String, "similarity": pl.Float32,
        "shuffled": pl.Float32, "outranked": pl.Float32, "among": pl.Int32,
    })  # fmt: skip


def _with_odd(part: pl.DataFrame, known: pl.DataFrame, slots: Mapping[str, Modality]) -> pl.DataFrame:
    """`odd`, and `badness`: how far, in interquartile ranges, that slot's pairs lie below the median on average.

    Of two slots either could be the odd one: it is the text, which is the one that is easily mistaken.
    """
    far = part.join(known, on=["given", "other"], how="left", maintain_order="left").with_columns(
        far=(pl.col("median") - pl.col("similarity")) / pl.col("spread")
    )
    each = pl.concat([far.select("row", pl.col(side).alias("odd"), "far") for side in ("given", "other")])
    rank = {slot: modality != "text" for slot, modality in slots.items()}
    odd = (
        each.group_by("row", "odd").agg(badness=pl.col("far").mean())
        .with_columns(rank=pl.col("odd").replace_strict(rank, return_dtype=pl.Boolean))
        .sort("row", -pl.col("badness"), "rank", "odd").unique("row", keep="first", maintain_order=True)
    )  # fmt: skip
    return part.join(odd.drop("rank"), on="row", how="left", maintain_order="left")


def _better_ones(
    parts: Sequence[pl.DataFrame], batches: Sequence[Rows], slots: Sequence[str], known: pl.DataFrame
) -> pl.DataFrame:
    """`better_key` and `better_similarity` by row and pair of slots: of the worst samples' odd slots."""
    everyone = pl.concat([part.select("row", "odd", "badness").unique("row") for part in parts])
    worst = everyone.sort(-pl.col("badness"), "row").head(SUSPECTS)
    suspects = worst["row"].to_numpy()
    among = {(b, int(at)) for b, batch in enumerate(batches) for at in np.flatnonzero(np.isin(batch.rows_N, suspects))}
    # swapped samples are both among the worst; what else may fit is among those drawn
    some = Some.gather(batches, sorted(among | set(_drawn(batches))), slots)
    place_of = {int(row): place for place, row in enumerate(some.rows_P)}
    lows = {(given, other): low for given, other, low in known.select("given", "other", "low").iter_rows()}
    found = []
    for row, odd in worst.select("row", "odd").iter_rows():
        found += [(row, *each) for each in _better(some, place_of[row], odd, slots, lows)]
    schema: Any = {"row": pl.Int64, "given": pl.String, "other": pl.String, "better_key": pl.String,
                   "better_similarity": pl.Float32}  # fmt: skip
    return pl.DataFrame(found, schema=schema, orient="row")


def _better(
    some: Some, place: int, odd: str, slots: Sequence[str], lows: Mapping[tuple[str, str], float]
) -> list[tuple[str, str, str, float]]:
    """(given, other, key, similarity) for each pair of the odd slot: the sample that the two could have swapped with.

    The odd slot fits that one's other slots; among such, the one with which an exchange gains most in similarity.
    """
    pairs = [(min(odd, slot), max(odd, slot), slot) for slot in slots
             if slot != odd and not np.isnan(some.e_PD[slot][place, 0])]  # fmt: skip
    there = {slot: some.e_PD[slot] @ some.e_PD[odd][place] for _, _, slot in pairs}
    back = {slot: some.e_PD[odd] @ some.e_PD[slot][place] for _, _, slot in pairs}
    fits = np.logical_and.reduce([there[slot] >= lows[given, other] for given, other, slot in pairs])
    fits &= np.array([key != some.keys[place] for key in some.keys])
    if not fits.any():
        return []
    own = {slot: (some.e_PD[odd] * some.e_PD[slot]).sum(1) for _, _, slot in pairs}
    gain = sum(there[slot] + np.nan_to_num(back[slot] - own[slot], nan=0.0) for _, _, slot in pairs)
    best = int(np.where(fits, gain, -np.inf).argmax())
    return [(given, other, some.keys[best], float(np.clip(there[slot][best], -1, 1))) for given, other, slot in pairs]
