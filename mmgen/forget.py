"""Forget: a version of a data set without some samples, made from the version itself; no source is read.

Only the shards that held them are written anew. The ledger is written first: whatever happens after, the next ingest
leaves these keys out, and the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import polars as pl

from mmgen import artifact, catalog, rerender, tombstones
from mmgen.artifact import Artifact, Draft, fingerprint
from mmgen.dataset import Dataset
from mmgen.decision import split_rank
from mmgen.errors import StoreError, UnknownReference, UserError, unknown_name
from mmgen.forgotten import Ledger
from mmgen.holders import Holders, find_holders
from mmgen.records import ShardInfo
from mmgen.report.card import SHOWING
from mmgen.runtime import circumstance
from mmgen.shard_config import ShardConfig
from mmgen.shard_facts import Facts, Part, in_tar
from mmgen.shard_files import write_files
from mmgen.shard_plan import BaseShard, plan
from mmgen.shards import (
    PLANS,
    adopt,
    base_shards,
    by_digest,
    describe,
    label_names,
    name_files,
    read_stats,
    slot_facts,
)
from mmgen.sources.digests import cache_path
from mmgen.staging import FOLDER as BATCHES
from mmgen.store import Store, sha256
from mmgen.tars import member_suffix, safe_key

VERSION = 1


@dataclass(frozen=True)
class Forgotten:
    """What came of it. made: the new version, None if the newest good one held none of the keys.

    purged: paths that were deleted. rerendered: paths of reports, cards and verdicts that were made again without them.
    """

    holders: Holders
    base: Artifact | None
    made: Artifact | None
    purged: tuple[str, ...] = ()
    rerendered: tuple[str, ...] = ()


def forget(store: Store, name: str, keys: Iterable[str], *, purge: bool = False) -> Forgotten:
    """Forget `keys` of the data set `name`; `purge` also deletes what holds their bytes and names, in every version,
    and makes pages and tables that told of them again.

    Raises UnknownReference for a name or a key that the store does not know, UserError if nothing would be left.
    """
    wanted = frozenset(keys)
    ledger = Ledger.read(store, name)
    holders = known_holders(store, name, wanted, ledger)
    base = artifact.latest(store, "dataset", name, passed=True)
    held = base is not None and any(each.ref == base.ref for each in holders.datasets)
    # a version that cannot be made must not leave a line behind
    rows = _left(store, base, wanted) if base is not None and held else None
    ledger = ledger.add(wanted)
    made = _version(store, base, rows, wanted, ledger) if base is not None and rows is not None else None
    gone, again = _purge(store, name, holders) if purge else ([], [])
    return Forgotten(holders, base, made, tuple(gone), tuple(again))


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


def _whole(store: Store, base: Artifact) -> list[BaseShard]:
    """All shards of the base. Raises StoreError if another purge has taken some of them."""
    shards = list(base_shards(store, base))
    if len(shards) < len(base.by_role("facts")):
        raise StoreError(f"{base.ref}: samples of it were purged meanwhile; run the same command again")
    return shards


def _left(store: Store, base: Artifact, keys: Set[str]) -> pl.DataFrame:
    """The base's samples (`row`: their place in it, `key`, `split`, `digest`) without `keys`."""
    shards = _whole(store, base)
    rows = pl.concat((each.rows.with_columns(split=pl.lit(each.split)) for each in shards), rechunk=True)
    left = rows.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64)).filter(~pl.col("key").is_in(list(keys)))
    if not left.height:
        raise UserError(f"{base.ref}: without these keys nothing is left of it; wanted at least one sample to remain")
    return left


def _member_name(_row: int, key: str, slot: str, ext: str) -> str:
    return f"{safe_key(key)}.{member_suffix(slot, ext)}"


def _parts(base: Artifact) -> list[Part]:
    """The base's shards, whose facts number their rows from 0."""
    parts, first = list[Part](), 0
    for files in by_digest(base).values():
        parts.append(Part(first, first, files["facts"], files["shard"]))
        first += files["shard"].facts["samples"]
    return parts


def _version(store: Store, base: Artifact, rows: pl.DataFrame, keys: Set[str], ledger: Ledger) -> Artifact:
    slots = {slot: each["modality"] for slot, each in base.facts["slots"].items()}
    tokens = sorted(ledger.token(key) for key in keys)
    draft = Draft(
        store, "dataset", base.name,
        fingerprint(step="forget", version=VERSION, base=base.fingerprint, keys=tokens),
    )  # fmt: skip
    facts_of = Facts(store, _parts(base), slots, _member_name, rows)
    made = plan(rows, _whole(store, base), ShardConfig(**base.config["shard"]), base.config["seed"], facts_of.sizes)
    infos = adopt(draft, base, made.shared)
    for number, places_M in enumerate(made.places()):
        # each is what is left of one shard, or a part of that
        table = in_tar(pl.concat(facts_of.tables(places_M, made.shard_N[places_M])))
        infos.append(name_files(draft, write_files(store, base.name, made.splits[number], table, slots)))
    infos.sort(key=lambda info: split_rank(info.split))
    stats = read_stats(store, infos)
    facts = _facts(base, rows.height, infos) | {
        "slots": slot_facts(stats, slots),
        "labels": label_names(stats),
        "shards": {"shared": len(made.shared), "written": len(made.splits)},
        "forgotten": tokens[:100],
    }
    describe(draft, facts, infos, stats)
    return draft.commit(
        step="forget", config=dict(base.config), inputs={"dataset": base.link}, facts=facts, pin=base.pin,
        circumstance=circumstance(),
    )  # fmt: skip


def _facts(base: Artifact, rows: int, infos: Sequence[ShardInfo]) -> dict[str, object]:
    """The base's, with the forgotten samples moved from kept to dropped (law 6)."""
    counts = dict(base.facts["counts"])
    gone = counts["kept"] - rows
    splits: dict[str, int] = {}
    for info in infos:
        splits[info.split] = splits.get(info.split, 0) + info.samples
    return {
        "counts": counts | {"kept": rows, "dropped": counts["dropped"] + gone},
        "splits": splits,
        "base": base.ref,
        "layout": base.facts["layout"],
    }


# ---------------------------------------------------------------- purge


def _purge(store: Store, name: str, holders: Holders) -> tuple[list[str], list[str]]:
    """Delete what holds the keys, and make again what only tells of them. Returns both lists of paths.

    Tombstones that name it are put first. Pages are made before anything goes: they show what staging has of others.
    """
    ledger = Ledger.read(store, name)
    reports = [each for each in holders.verdicts if rerender.can_report(store, each)]
    examined = _examined(store, holders)
    cards = [
        (each, pages) for each in examined if each.kind == "promotion" and (pages := rerender.card_of(store, each))
    ]
    again = {entry.path for each in reports for entry in each.files} | {path for _, pages in cards for path in pages}
    paths = _paths(store, name, holders, examined) - again
    for found in catalog.everything(store):
        if not paths.isdisjoint(entry.path for entry in found.files):
            tombstones.put(store, found, paths)
    for each in reports:
        _replace(store, each, rerender.report(store, each, ledger))
    for each, pages in cards:
        _replace(store, each, pages)
    gone = sorted({path for path in paths if store.exists(path)} | _left_behind(store))
    for path in gone:
        store.delete(path)
    return gone, sorted(path for path in again if store.exists(path))


def _replace(store: Store, found: Artifact, files: Mapping[str, bytes]) -> None:
    tombstones.put(store, found, frozenset(), {path: sha256(data) for path, data in files.items()})
    for path, data in files.items():
        store.write(path, data)


def _paths(store: Store, name: str, holders: Holders, examined: Iterable[Artifact]) -> set[str]:
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
    # a run that was killed while it wrote shards leaves the facts that it wrote them from
    paths |= set(store.walk(f"{PLANS}/{name}"))
    # examples are made from samples of the exam, and cards show them
    for role in ("card", "card-json", *SHOWING):
        paths |= {entry.path for judged in examined for entry in judged.by_role(role)}
    cache = cache_path(name)
    return paths | ({cache} if store.exists(cache) else set())


def _examined(store: Store, holders: Holders) -> list[Artifact]:
    """Scores and promotions that go back to one of the holders' evaluation sets, or show samples of their shards."""
    exams = {each.ref for each in holders.evalsets}
    scores = catalog.everything(store, "scores")
    # the training samples that were nearest to made ones
    exams |= {
        each.ref for each in scores if any(e.facts.get("shard") in holders.shards for e in each.by_role("nearest"))
    }
    if not exams:
        return []
    judged = (*scores, *catalog.everything(store, "promotion"))
    return [each for each in judged if each.ref in exams or not exams.isdisjoint(_exams(store, each))]


def _exams(store: Store, judged: Artifact) -> set[str]:
    """References of the evaluation sets that scores or a promotion go back to."""
    before = artifact.lineage(store, judged)
    return {str(each.facts["evalset"]) for each in before.values() if each.kind == "codecs"} | set(before)


def _left_behind(store: Store) -> set[str]:
    """What tombstones name and a purge that died left: to be deleted, or to be made again and not as it was to be."""
    left: set[str] = set()
    for found in catalog.everything(store):
        again = tombstones.rerendered(store, found)
        for path in tombstones.purged(store, found):
            if path.startswith("cache/") or not store.exists(path):
                continue
            if path not in again or sha256(store.read(path)) != again[path]:
                left.add(path)
    return left
