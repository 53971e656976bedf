"""The step `shard`: kept rows → the version's shards. Only writes; every decision is in the verdicts.

Shards are named by their digest and shared between versions: what the base version has and did not change stays where
it is, new rows make new shards, and a base shard that holds a changed or removed row is written anew with what is left.
Same source, configuration and base → the same bytes, at any number of workers (law 5).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import polars as pl

from mmgen import artifact
from mmgen.artifact import Artifact, Draft, FileEntry, Reference, canonical_json
from mmgen.config import Config
from mmgen.errors import IntegrityError, UnknownReference
from mmgen.forgotten import Ledger
from mmgen.identity import STEP_VERSIONS, identity
from mmgen.records import MODALITIES, ShardInfo
from mmgen.report import shard_report
from mmgen.report.readme import readme
from mmgen.runtime import Runtime, circumstance
from mmgen.shard_config import ShardConfig
from mmgen.staging import StagedMedia, read_facts
from mmgen.store import Store, sha256
from mmgen.tables import parquet, read_parquet
from mmgen.tars import TarWriter, safe_key
from mmgen.verdicts import check_counts, split_rank

ROLES = ("shard", "facts", "index", "stats")


@dataclass(frozen=True, slots=True)
class Piece:
    """A row on its way into a shard. size: bytes of its members, roughly."""

    key: str
    split: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class BaseShard:
    """A shard of the base version: (key, digest) of its rows. whole: its files are there with their sizes."""

    digest: str
    split: str
    rows: tuple[tuple[str, str], ...]
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """shared: digests of base shards that stay. written: (split, keys) of each shard to write, in order."""

    shared: tuple[str, ...]
    written: tuple[tuple[str, tuple[str, ...]], ...]


def plan(pieces: Sequence[Piece], base: Sequence[BaseShard], config: ShardConfig, seed: int) -> Plan:
    """Which base shards stay, and what goes into new ones. The order of `pieces` does not enter."""
    by_key = {piece.key: piece for piece in pieces}
    shared: list[str] = []
    groups: list[list[Piece]] = []
    placed: set[str] = set()
    for shard in base:
        found = [by_key[key] for key, _ in shard.rows if key in by_key and by_key[key].split == shard.split]
        placed.update(piece.key for piece in found)
        if shard.whole and [(piece.key, piece.digest) for piece in found] == list(shard.rows):
            shared.append(shard.digest)
        elif found:
            groups += _cut(_shuffled(found, seed), config, 1)
    for split in sorted({piece.split for piece in pieces}, key=split_rank):
        new = [piece for piece in pieces if piece.split == split and piece.key not in placed]
        first = not any(shard.split == split for shard in base)
        groups += _cut(_shuffled(new, seed), config, config.min_shards_per_split if first else 1)
    groups.sort(key=lambda group: split_rank(group[0].split))
    return Plan(tuple(shared), tuple((group[0].split, tuple(piece.key for piece in group)) for group in groups))


def _shuffled(pieces: Iterable[Piece], seed: int) -> list[Piece]:
    """By a hash of seed and key: an order that no other row can change."""
    return sorted(pieces, key=lambda piece: hashlib.sha256(f"{seed}\0shard\0{piece.key}".encode()).digest())


def _cut(pieces: Sequence[Piece], config: ShardConfig, least: int) -> list[list[Piece]]:
    """Even runs under both caps, at least `least` of them as far as there are pieces. One above the cap is alone."""
    if not pieces:
        return []
    size = sum(piece.size for piece in pieces)
    count = max(-(-len(pieces) // config.max_samples), -(-size // config.max_bytes), least)
    count = min(count, len(pieces))
    groups: list[list[Piece]] = []
    for number in range(count):
        run = pieces[number * len(pieces) // count : (number + 1) * len(pieces) // count]
        group: list[Piece] = []
        held = 0
        for piece in run:
            if group and held + piece.size > config.max_bytes:
                groups.append(group)
                group, held = [], 0
            group.append(piece)
            held += piece.size
        groups.append(group)
    return groups


def shard(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Commit `dataset:<name>` under the version that the verdicts allotted.

    inputs: {"staging", "verdicts"}. Raises IntegrityError if a kept row is lost or written twice.
    """
    store, known = runtime.store, identity("shard", config, inputs)
    verdicts, slots = inputs["verdicts"], {name: slot.modality for name, slot in config.slots.items()}
    staging = inputs["staging"]
    rows = _kept_rows(store, verdicts, staging, slots)
    base = _load_base(store, verdicts, known.config)
    made = plan(pieces_of(rows, slots), base_shards(store, base), config.shard, config.seed)
    version = _number(store, verdicts, known.fingerprint)
    if runtime.verify and version is not None:
        _drop_damaged_facts(store, config.name, version)
    draft = Draft(store, "dataset", config.name, known.fingerprint, version=version)
    infos = [adopt(draft, base, digest) for digest in made.shared] if base else []
    infos += [name_files(draft, info) for info in _write(config.name, made, rows, staging, slots, runtime)]
    _check(infos, rows, verdicts)
    infos.sort(key=lambda info: split_rank(info.split))
    facts = {
        "counts": dict(verdicts.facts["counts"]),
        "splits": dict(verdicts.facts["splits"]),
        "slots": slot_facts(rows, slots),
        "labels": label_names(rows),
        "base": verdicts.facts["base"],
        "shards": {"shared": len(made.shared), "written": len(made.written)},
        "layout": STEP_VERSIONS["shard"],
    }
    describe(draft, facts, infos)
    # a forget that ended while this ran has not seen what was written here
    Ledger.read(store, config.name).refuse(rows["key"].to_list(), f"dataset:{config.name}@{draft.version}")
    return draft.commit(
        step="shard", config=known.config, pin=known.pin, circumstance=circumstance(workers=runtime.workers),
        inputs={role: each.link for role, each in inputs.items()}, facts=facts,
    )  # fmt: skip


def _number(store: Store, verdicts: Artifact, fingerprint: str) -> int | None:
    """The version that the verdicts allotted; None (the next one) if it was cut by other rules before."""
    try:
        there = artifact.load(store, "dataset", verdicts.name, verdicts.version)
    except UnknownReference:
        return verdicts.version
    return verdicts.version if there.fingerprint == fingerprint else None


def _drop_damaged_facts(store: Store, name: str, version: int) -> None:
    """What is there stays as it is where it can be read, whatever bits were flipped in it: here it was looked at."""
    if version in artifact.versions(store, "dataset", name):
        for entry in artifact.load(store, "dataset", name, version).by_role("facts"):
            if artifact.damage(store, entry, rehash=True):
                store.delete(entry.path)


def describe(draft: Draft, facts: Mapping[str, Any], infos: Sequence[ShardInfo]) -> None:
    """Put what tells people and other readers of a version: its README and the page of its shards."""
    draft.put("README.md", readme(draft.name, draft.version, facts, infos), "readme")
    stats = [json.loads(draft.store.read(f"{info.path.removesuffix('.tar')}_stats.json")) for info in infos]
    page = shard_report.render(draft.name, draft.version, infos, stats, list(facts["slots"]))
    draft.put("shards.html", page, "shard-report")


def slot_facts(rows: pl.DataFrame, slots: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Slot → its modality, and in how many of the rows it is present."""
    return {
        slot: {"modality": modality, "present": int(rows[f"{slot}.present"].sum())} for slot, modality in slots.items()
    }


def label_names(rows: pl.DataFrame) -> list[str] | None:
    """The labels of the rows, sorted; None if there are none."""
    return sorted(rows["label"].drop_nulls().unique().to_list()) or None


def _kept_rows(store: Store, verdicts: Artifact, staging: Artifact, slots: Mapping[str, str]) -> pl.DataFrame:
    """Facts of the kept rows as they go into shards: assigned split, dropped slots absent, with the row's digest."""
    table = read_parquet(store, verdicts.file("verdicts").path).filter(pl.col("verdict") == "kept")
    judged = table.select("row", pl.col("split").alias("assigned"), "digest", "dropped_slots")
    rows = read_facts(store, staging).join(judged, on="row", how="inner", maintain_order="left")
    if rows.height != table.height:
        raise IntegrityError(
            f"{verdicts.ref}: {table.height} rows are kept, staging has facts of {rows.height} of them"
        )
    changed = []
    for slot in slots:
        gone = pl.col("dropped_slots").list.contains(slot)
        own = [name for name in rows.columns if name.startswith(f"{slot}.") and name != f"{slot}.present"]
        changed += [pl.when(gone).then(None).otherwise(pl.col(name)).alias(name) for name in own]
        changed.append((pl.col(f"{slot}.present") & ~gone).alias(f"{slot}.present"))
    return rows.with_columns(*changed, split=pl.col("assigned")).drop("assigned", "dropped_slots")


def pieces_of(rows: pl.DataFrame, slots: Mapping[str, str]) -> list[Piece]:
    """The rows as `plan` wants them."""
    return [Piece(row["key"], row["split"], row["digest"], _size(row, slots)) for row in rows.iter_rows(named=True)]


def _size(row: Mapping[str, Any], slots: Mapping[str, str]) -> int:
    """Bytes of a row's members in a tar, headers and padding included."""
    media = sum((row[f"{slot}.bytes"] or 0) + 1024 for slot in slots if row[f"{slot}.present"])
    return media + len(row["texts"]) + len(row["meta"]) + 1536


def _load_base(store: Store, verdicts: Artifact, part: Mapping[str, Any]) -> Artifact | None:
    """The base version that the verdicts were judged against; None if its shards are cut by other rules."""
    if verdicts.facts["base"] is None:
        return None
    reference = Reference.parse(verdicts.facts["base"])
    assert reference.version is not None
    base = artifact.load(store, "dataset", reference.name, reference.version)
    same = base.config == part and base.facts["layout"] == STEP_VERSIONS["shard"]
    return base if same else None


def base_shards(store: Store, base: Artifact | None) -> list[BaseShard]:
    """The base version's shards. One with a damaged file is written anew from staging, in the same place."""
    found: list[BaseShard] = []
    for entry in base.by_role("facts") if base else ():
        assert base is not None
        table = read_parquet(store, entry.path, ["key", "digest"])
        mine = [each for each in base.files if each.facts.get("digest") == entry.facts["digest"]]
        whole = all(store.size(each.path) == each.size for each in mine)
        found.append(BaseShard(entry.facts["digest"], entry.facts["split"], tuple(table.iter_rows()), whole))
    return found


def adopt(draft: Draft, base: Artifact, digest: str) -> ShardInfo:
    """Name a base shard's four files in this version."""
    mine = {entry.role: entry for entry in base.files if entry.facts.get("digest") == digest}
    for role in ROLES:
        draft.adopt(mine[role])
    tar = mine["shard"]
    return ShardInfo(tar.facts["split"], digest, tar.path, mine["facts"].path, tar.facts["samples"], tar.size)


def name_files(draft: Draft, entries: Sequence[FileEntry]) -> ShardInfo:
    """Name the four files of a shard that was written in this version."""
    for entry in entries:
        draft.adopt(entry)
    tar, facts = entries[0], entries[1]
    return ShardInfo(tar.facts["split"], tar.facts["digest"], tar.path, facts.path, tar.facts["samples"], tar.size)


def _write(
    name: str, made: Plan, rows: pl.DataFrame, staging: Artifact, slots: Mapping[str, str], runtime: Runtime
) -> list[list[FileEntry]]:
    """Write the planned shards, each a batch of work of its own."""
    place = {key: index for index, key in enumerate(rows["key"].to_list())}
    arguments = []
    for split, keys in made.written:
        table = rows[[place[key] for key in in_tar(keys)]]
        arguments.append((runtime.store.uri, name, split, parquet(table), staging.fingerprint, dict(slots)))
    with runtime.progress.bar("shard", rows.height) as bar:
        entries = runtime.map("shard", write_shard, arguments, runtime.workers)
        bar.advance(rows.height)
    return [[FileEntry(**entry) for entry in each] for each in entries]


def in_tar(keys: Iterable[str]) -> list[str]:
    """The keys in the order of their members in a tar."""
    return sorted(keys, key=lambda key: safe_key(key) + ".")


def write_shard(
    uri: str, name: str, split: str, facts: bytes, staged: str, slots: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Write one shard into the store at `uri`: its tar, the facts of exactly its rows, its index and stats.

    facts: Parquet of its rows in the order of the tar. staged: the staging's fingerprint. Returns its four file entries
    as plain data.
    """
    store = Store(uri)
    staging = artifact.find_staging(store, staged)
    if staging is None:
        raise IntegrityError(f"staging {staged[:12]} is gone from {uri}; ingest again")
    with StagedMedia(store, staging) as media:
        return [asdict(entry) for entry in
                write_files(store, name, split, pl.read_parquet(io.BytesIO(facts)), media, slots)]  # fmt: skip


class Media(Protocol):
    """Where the bytes of rows come from."""

    def read(self, row: int, slot: str, ext: str) -> bytes: ...


def write_files(
    store: Store, name: str, split: str, table: pl.DataFrame, media: Media, slots: Mapping[str, str]
) -> list[FileEntry]:
    """Write the four files of a shard, in the order of ROLES. table: its rows in the order of the tar."""
    folder = f"datasets/{name}/shards"
    with store.pieces(folder) as tar:
        writer = TarWriter(tar)
        for member, data in _members(table, media, slots):
            writer.add(member, data)
        index = writer.close()
        # its name is its digest, so it has one only now
        stem = f"{folder}/{split}-{index.sha256}"
        tar.commit(f"{stem}.tar")
    # beside a tar that is named by its digest, only what follows from the tar: its rows are numbered within it
    facts = _facts_file(store, f"{stem}.parquet", table.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64)))
    about = {"split": split, "samples": table.height, "digest": index.sha256}
    files = {
        "facts": (f"{stem}.parquet", facts),
        "index": (f"{stem}.tar.idx", index.to_bytes()),
        "stats": (f"{stem}_stats.json", canonical_json(_stats(table, slots, index.length))),
    }
    entries = [FileEntry(f"{stem}.tar", index.length, index.sha256, "shard", about)]
    for role, (path, content) in files.items():
        store.write(path, content)
        entries.append(FileEntry(path, len(content), sha256(content), role, about))
    return entries


def _facts_file(store: Store, path: str, table: pl.DataFrame) -> bytes:
    """The Parquet file of a shard's facts. One that is there already stays as it is: versions name it by its bytes."""
    try:
        there = store.read(path)
        known = pl.read_parquet(io.BytesIO(there))
        if known.select("key", "digest").equals(table.select("key", "digest")):
            return there
    except (FileNotFoundError, pl.exceptions.PolarsError):
        pass
    return parquet(table)


def _members(table: pl.DataFrame, media: Media, slots: Mapping[str, str]) -> Iterable[tuple[str, bytes]]:
    """The tar's members in their sorted order. Media are the source's bytes, verbatim."""
    for row in table.iter_rows(named=True):
        texts = {slot: each for slot, each in json.loads(row["texts"]).items() if row[f"{slot}.present"]}
        about = {
            "key": row["key"], "label": row["label"], "group": row["group"], "texts": texts,
            "meta": json.loads(row["meta"]),
        }  # fmt: skip
        mine = {"json": canonical_json(about)}
        for slot, modality in slots.items():
            if row[f"{slot}.present"]:
                data = (
                    texts[slot][0].encode() if modality == "text" else media.read(row["row"], slot, row[f"{slot}.ext"])
                )
                mine[member_suffix(slot, "txt" if modality == "text" else row[f"{slot}.ext"])] = data
        safe = safe_key(row["key"])
        yield from ((f"{safe}.{suffix}", data) for suffix, data in sorted(mine.items()))


def member_suffix(slot: str, ext: str) -> str:
    """`<ext>` for the three default slots, `<slot>.<ext>` for others."""
    return ext if slot in MODALITIES else f"{slot}.{ext}"


def _stats(table: pl.DataFrame, slots: Mapping[str, str], size: int) -> dict[str, Any]:
    """What img2dataset's readers find beside a shard."""
    return {
        "count": table.height,
        "successes": table.height,
        "bytes": size,
        "present": {slot: int(table[f"{slot}.present"].sum()) for slot in slots},
        "labels": {
            row["label"]: row["len"]
            for row in table.drop_nulls("label").group_by("label").len().sort("label").to_dicts()
        },
    }


def _check(infos: Sequence[ShardInfo], rows: pl.DataFrame, verdicts: Artifact) -> None:
    """Law 6 once more, on what was written. Raises IntegrityError."""
    check_counts(verdicts.facts["counts"])
    kept, written = verdicts.facts["counts"]["kept"], sum(info.samples for info in infos)
    if not written == rows.height == kept:
        raise IntegrityError(f"{verdicts.ref}: keeps {kept} rows, {rows.height} were read and {written} are in shards")
