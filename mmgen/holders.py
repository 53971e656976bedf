"""Where in a store given keys of a data set are: shards, versions, verdicts, staging, features, models, exams."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Set
from dataclasses import dataclass

import polars as pl

from mmgen import artifact, catalog
from mmgen.artifact import Artifact, FileEntry
from mmgen.errors import UnknownReference
from mmgen.store import Store
from mmgen.tables import read_parquet


@dataclass(frozen=True)
class Holders:
    """What holds any of some keys.

    found: the keys that are known at all. shards: digests of media shards. The others are artifacts, newest first;
    batches: names of staging batches. trained: codecs, judges and models with such a shard among their training data.
    """

    found: frozenset[str]
    shards: frozenset[str]
    batches: frozenset[str]
    pairs: tuple[Artifact, ...]
    datasets: tuple[Artifact, ...]
    verdicts: tuple[Artifact, ...]
    features: tuple[Artifact, ...]
    trained: tuple[Artifact, ...]
    evalsets: tuple[Artifact, ...]


def find_holders(store: Store, name: str, keys: Set[str]) -> Holders:
    """All that holds any of `keys` of the data set `name`. What was purged is passed over. Raises StoreError."""
    versions, judged = artifact.history(store, "dataset", name), artifact.history(store, "verdicts", name)
    stagings = _stagings(store, name, judged)
    shards = _held(store, keys, (entry for each in versions for entry in each.by_role("facts")))
    tables = {each.ref: _held(store, keys, each.by_role("verdicts")) for each in judged}
    staged = _held(
        store, keys, (entry for each in stagings for role in ("facts", "rejections") for entry in each.by_role(role))
    )
    digests = frozenset(str(entry.facts["digest"]) for entry, _ in shards)
    found = {key for held in (shards, staged, *tables.values()) for _, mine in held for key in mine}
    batches = frozenset(entry.path.rpartition("/")[2].split(".")[0] for entry, _ in staged)
    everything = catalog.everything(store)
    return Holders(
        frozenset(found), digests, batches,
        tuple(each for each in artifact.history(store, "pairs", name) if _embeds(each, batches)),
        tuple(each for each in versions if _names(each, digests)),
        tuple(each for each in judged if tables[each.ref]),
        tuple(each for each in everything if each.kind == "features" and _names(each, digests)),
        tuple(each for each in everything if not digests.isdisjoint(each.facts.get("train_shards") or ())),
        tuple(each for each in everything if each.kind == "evalset" and _examined(store, each, keys)),
    )  # fmt: skip


def _stagings(store: Store, name: str, judged: Iterable[Artifact]) -> list[Artifact]:
    """Of a data set: those of its name, and those that it shares with another one of the same source."""
    found = {each.fingerprint: each for each in artifact.history(store, "staging", name)}
    for link in (each.inputs["staging"] for each in judged):
        if link.fingerprint not in found:
            with contextlib.suppress(UnknownReference):
                found[link.fingerprint] = artifact.load_link(store, link)
    return list(found.values())


def _names(found: Artifact, digests: Set[str]) -> bool:
    return any(entry.facts.get("digest") in digests for entry in found.files)


def _embeds(scores: Artifact, batches: Set[str]) -> bool:
    """Whether pair scores are of a row of these batches: their table names the keys of all rows."""
    return any(entry.facts["batch"] in batches for entry in scores.by_role("embeddings"))


def _held(store: Store, keys: Set[str], entries: Iterable[FileEntry]) -> list[tuple[FileEntry, set[str]]]:
    """The tables that name any of `keys`, each read once, with the keys that they name."""
    held = []
    for entry in {entry.path: entry for entry in entries}.values():
        try:
            table = read_parquet(store, entry.path, ["key"])
        except FileNotFoundError:
            continue
        if mine := set(table.filter(pl.col("key").is_in(list(keys)))["key"].to_list()):
            held.append((entry, mine))
    return held


def _examined(store: Store, evalset: Artifact, keys: Set[str]) -> bool:
    path = evalset.file("keys").path
    if not store.exists(path):
        return False
    return any(row["key"] in keys for rows in json.loads(store.read(path)).values() for row in rows)
