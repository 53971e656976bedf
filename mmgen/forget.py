"""Forget: a version of a data set without some samples, made from the version itself; no source is read.

Only the shards that held them are written anew. The ledger is written first: whatever happens after, the next ingest
leaves these keys out, and the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import polars as pl

from mmgen import artifact, catalog, tombstones
from mmgen.artifact import Artifact, Draft, fingerprint
from mmgen.dataset import Dataset
from mmgen.errors import UnknownReference, UserError, unknown_name
from mmgen.forgotten import Ledger
from mmgen.holders import Holders, find_holders
from mmgen.records import ShardInfo
from mmgen.runtime import circumstance
from mmgen.shard_config import ShardConfig
from mmgen.shards import (
    adopt,
    base_shards,
    describe,
    in_tar,
    label_names,
    name_files,
    pieces_of,
    plan,
    slot_facts,
    write_files,
)
from mmgen.staging import FOLDER as BATCHES
from mmgen.store import Store
from mmgen.tables import read_kept
from mmgen.verdicts import split_rank

VERSION = 1


@dataclass(frozen=True)
class Forgotten:
    """What came of it. made: the new version, None if the newest good one held none of the keys.

    purged: paths that were deleted.
    """

    holders: Holders
    base: Artifact | None
    made: Artifact | None
    purged: tuple[str, ...]


def forget(store: Store, name: str, keys: Iterable[str], *, purge: bool = False) -> Forgotten:
    """Forget `keys` of the data set `name`; `purge` also deletes what holds their bytes and names, in every version.

    Raises UnknownReference for a name or a key that the store does not know, UserError if nothing would be left.
    """
    wanted = frozenset(keys)
    ledger = Ledger.read(store, name)
    finished = _finish_purge(store) if purge else []
    holders = known_holders(store, name, wanted, ledger)
    base = artifact.latest(store, "dataset", name, passed=True)
    held = base is not None and any(each.ref == base.ref for each in holders.datasets)
    # a version that cannot be made must not leave a line behind
    rows = _left(store, base, wanted) if base is not None and held else None
    ledger = ledger.add(wanted)
    made = _version(store, base, rows, wanted, ledger) if base is not None and rows is not None else None
    if purge:
        finished += _purge(store, name, holders)
    return Forgotten(holders, base, made, tuple(sorted(set(finished))))


def known_holders(store: Store, name: str, keys: Set[str], ledger: Ledger) -> Holders:
    """What holds the keys. Raises UnknownReference if one of them is nowhere, and was not forgotten before."""
    if name not in artifact.names(store, "dataset") and name not in artifact.names(store, "verdicts"):
        known = sorted({*artifact.names(store, "dataset"), *artifact.names(store, "verdicts")})
        raise UnknownReference(f"{unknown_name('dataset', name, known)} in {store.uri}")
    holders = find_holders(store, name, keys)
    strange = sorted(key for key in keys - holders.found if ledger.line_of(key) is None)
    if strange:
        more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
        latest = artifact.latest(store, "dataset", name)
        near = Dataset(store, latest).keys() if latest is not None else []
        said = unknown_name("key", strange[0], near, listed=False)
        raise UnknownReference(f"{said} no version of {name} has it{more}; nothing was forgotten")
    return holders


# ---------------------------------------------------------------- the version without them


def _left(store: Store, base: Artifact, keys: Set[str]) -> pl.DataFrame:
    """The facts of the base's samples, numbered by their place in them, without `keys`."""
    rows = read_kept(store, base).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
    left = rows.filter(~pl.col("key").is_in(list(keys)))
    if not left.height:
        raise UserError(f"{base.ref}: without these keys nothing is left of it; wanted at least one sample to remain")
    return left


class _VersionMedia:
    """The bytes of a version's samples, by key at their place in its facts; every one is checked as it is read."""

    def __init__(self, dataset: Dataset, keys: dict[int, str]) -> None:
        self._dataset, self._keys = dataset, keys

    def read(self, row: int, slot: str, _ext: str) -> bytes:
        return bytes(self._dataset[self._keys[row]].values[slot])


def _version(store: Store, base: Artifact, rows: pl.DataFrame, keys: Set[str], ledger: Ledger) -> Artifact:
    slots = {slot: each["modality"] for slot, each in base.facts["slots"].items()}
    tokens = sorted(ledger.token(key) for key in keys)
    draft = Draft(
        store, "dataset", base.name,
        fingerprint(step="forget", version=VERSION, base=base.fingerprint, keys=tokens),
    )  # fmt: skip
    made = plan(
        pieces_of(rows, slots), base_shards(store, base), ShardConfig(**base.config["shard"]), base.config["seed"]
    )
    infos = [adopt(draft, base, digest) for digest in made.shared]
    place = {key: index for index, key in enumerate(rows["key"].to_list())}
    with Dataset(store, base) as dataset:
        media = _VersionMedia(dataset, dict(zip(rows["row"].to_list(), rows["key"].to_list(), strict=True)))
        for split, mine in made.written:
            table = rows[[place[key] for key in in_tar(mine)]]
            infos.append(name_files(draft, write_files(store, base.name, split, table, media, slots)))
    infos.sort(key=lambda info: split_rank(info.split))
    facts = _facts(base, rows, slots, infos) | {
        "shards": {"shared": len(made.shared), "written": len(made.written)},
        "forgotten": tokens[:100],
    }
    describe(draft, facts, infos)
    return draft.commit(
        step="forget", config=dict(base.config), inputs={"dataset": base.link}, facts=facts, pin=base.pin,
        circumstance=circumstance(),
    )  # fmt: skip


def _facts(base: Artifact, rows: pl.DataFrame, slots: dict[str, str], infos: Sequence[ShardInfo]) -> dict[str, object]:
    """The base's, with the forgotten samples moved from kept to dropped (law 6)."""
    counts = dict(base.facts["counts"])
    gone = counts["kept"] - rows.height
    splits: dict[str, int] = {}
    for info in infos:
        splits[info.split] = splits.get(info.split, 0) + info.samples
    return {
        "counts": counts | {"kept": rows.height, "dropped": counts["dropped"] + gone},
        "splits": splits,
        "slots": slot_facts(rows, slots),
        "labels": label_names(rows),
        "base": base.ref,
        "layout": base.facts["layout"],
    }


# ---------------------------------------------------------------- purge


def _purge(store: Store, name: str, holders: Holders) -> list[str]:
    """Delete what holds the keys. A tombstone beside each manifest that names it is put first."""
    paths = _paths(store, name, holders)
    for found in catalog.everything(store):
        if not paths.isdisjoint(entry.path for entry in found.files):
            tombstones.put(store, found, paths)
    for path in paths:
        store.delete(path)
    return sorted(paths)


def _paths(store: Store, name: str, holders: Holders) -> set[str]:
    """Files that hold or show the keys: shards, features, verdicts, reports, staging, exams, cards, digests' cache."""
    media = (*holders.datasets, *holders.features, *holders.evalsets)
    paths = {entry.path for each in media for entry in each.files if entry.facts.get("digest") in holders.shards}
    # embeddings of a batch, whatever named them, and the similarities of its rows
    paths |= {path for path in store.walk("features") if path.rpartition("/")[2].split(".")[0] in holders.batches}
    paths |= {entry.path for each in holders.pairs for entry in each.by_role("pairs")}
    # verdicts and reports name keys, show pictures and play sounds
    paths |= {entry.path for each in holders.verdicts for entry in each.files}
    paths |= {entry.path for each in holders.evalsets for entry in each.by_role("keys")}
    paths |= {path for path in store.walk(BATCHES) if path.rpartition("/")[2].split(".")[0] in holders.batches}
    examined = {each.ref for each in holders.evalsets}
    for judged in (*catalog.everything(store, "scores"), *catalog.everything(store, "promotion")):
        # examples are made from samples of the exam, and cards show them
        if examined and not examined.isdisjoint(_exams(store, judged)):
            paths |= {entry.path for role in ("card", "card-json", "grid", "example") for entry in judged.by_role(role)}
    cache = f"cache/source-{name}.json"
    return paths | ({cache} if store.exists(cache) else set())


def _exams(store: Store, judged: Artifact) -> set[str]:
    """References of the evaluation sets that scores or a promotion go back to."""
    before = artifact.lineage(store, judged)
    return {str(each.facts["evalset"]) for each in before.values() if each.kind == "codecs"} | set(before)


def _finish_purge(store: Store) -> list[str]:
    """Delete what tombstones name and a purge that died left."""
    left = {path for found in catalog.everything(store) for path in tombstones.purged(store, found)
            if not path.startswith("cache/") and store.exists(path)}  # fmt: skip
    for path in left:
        store.delete(path)
    return sorted(left)
