"""The step `shard`: kept rows → the version's shards. Only writes; every decision is in the verdicts.

Shards are named by their digest and shared between versions: what the base version has and did not change stays where
it is, new rows make new shards, and a base shard that holds a changed or removed row is written anew with what is left.
Same source, configuration and base → the same bytes, at any number of workers (law 5).

A row costs a few bytes here (its key, split, digest and size); its facts pass through, and only where it is written.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmgen import artifact
from mmgen.artifact import Artifact, Draft, FileEntry, Reference
from mmgen.config import Config
from mmgen.decision import check_counts, split_rank
from mmgen.errors import IntegrityError, StoreError, UnknownReference
from mmgen.forgotten import Ledger
from mmgen.identity import STEP_VERSIONS, identity
from mmgen.records import ShardInfo
from mmgen.report import shard_report
from mmgen.report.readme import readme, tar_features
from mmgen.runtime import Runtime, circumstance
from mmgen.shard_facts import Facts, by_shard, staged_parts
from mmgen.shard_files import ROLES, write_shard
from mmgen.shard_plan import BaseShard, Plan, plan
from mmgen.staging import member_name
from mmgen.store import Store
from mmgen.tables import parquet, read_parquet
from mmgen.tombstones import purged

#: what tasks that write shards read; a run that was killed leaves its own to `gc`
PLANS = "staging/plans"


def shard(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Commit `dataset:<name>` under the version that the verdicts allotted.

    inputs: {"staging", "verdicts"}. Raises IntegrityError if a kept row is lost or written twice.
    """
    store, known = runtime.store, identity("shard", config, inputs)
    verdicts, slots = inputs["verdicts"], {name: slot.modality for name, slot in config.slots.items()}
    kept, dropped = _kept_rows(store, verdicts)
    base = _load_base(store, verdicts, known.config)
    facts_of = Facts(store, staged_parts(inputs["staging"]), slots, _staged_name, kept, dropped)
    made = plan(kept, base_shards(store, base) if base else (), config.shard, config.seed, facts_of.sizes)
    version = _number(store, verdicts, known.fingerprint)
    if runtime.verify and version is not None:
        _drop_damaged_facts(store, config.name, version)
    draft = Draft(store, "dataset", config.name, known.fingerprint, version=version)
    infos = adopt(draft, base, made.shared) if base else []
    infos += [name_files(draft, entries) for entries in _write(config.name, made, facts_of, slots, runtime)]
    _check(infos, kept.height, verdicts)
    infos.sort(key=lambda info: split_rank(info.split))
    stats = read_stats(store, infos)
    facts = {
        "counts": dict(verdicts.facts["counts"]),
        "splits": dict(verdicts.facts["splits"]),
        "slots": slot_facts(stats, slots),
        "labels": label_names(stats),
        "base": verdicts.facts["base"],
        "shards": {"shared": len(made.shared), "written": len(made.splits)},
        "layout": STEP_VERSIONS["shard"],
    }
    describe(draft, facts, infos, stats)
    # a forget that ended while this ran has not seen what was written here
    Ledger.read(store, config.name).refuse(kept["key"], f"dataset:{config.name}@{draft.version}")
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


def describe(
    draft: Draft, facts: Mapping[str, Any], infos: Sequence[ShardInfo], stats: Sequence[Mapping[str, Any]]
) -> None:
    """Put what tells people and other readers of a version: its README and the page of its shards."""
    slots = {slot: each["modality"] for slot, each in facts["slots"].items()}
    tables = (read_parquet(draft.store, info.facts_path) for info in infos)
    draft.put("README.md", readme(draft.name, draft.version, facts, infos, tar_features(tables, slots)), "readme")
    page = shard_report.render(draft.name, draft.version, infos, stats, list(facts["slots"]))
    draft.put("shards.html", page, "shard-report")


def read_stats(store: Store, infos: Sequence[ShardInfo]) -> list[dict[str, Any]]:
    """What stands in the stats of each shard."""
    return [json.loads(store.read(f"{info.path.removesuffix('.tar')}_stats.json")) for info in infos]


def slot_facts(stats: Sequence[Mapping[str, Any]], slots: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Slot → its modality, and in how many rows of the shards it is present."""
    # a shard from before a slot came has none of it
    present = {slot: sum(each["present"].get(slot, 0) for each in stats) for slot in slots}
    return {slot: {"modality": modality, "present": present[slot]} for slot, modality in slots.items()}


def label_names(stats: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The labels of the shards' rows, sorted; None if there are none."""
    return sorted({label for each in stats for label in each["labels"]}) or None


def _kept_rows(store: Store, verdicts: Artifact) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The kept rows (`row`, `key`, `split`, `digest` as bytes), and `dropped_slots` of those that lose any."""
    table = pl.scan_parquet(store.local_path(verdicts.file("verdicts").path), glob=False)
    table = table.filter(pl.col("verdict") == "kept")
    splits = pl.Enum(sorted(verdicts.facts["splits"], key=split_rank))
    digest = pl.col("digest").str.decode("hex")
    kept = table.select("row", "key", pl.col("split").cast(splits), digest).collect()
    dropped = table.filter(pl.col("dropped_slots").list.len() > 0).select("row", "dropped_slots").collect()
    return kept.rechunk(), dropped


def _staged_name(row: int, _key: str, slot: str, ext: str) -> str:
    return member_name(row, slot, ext)


# ---------------------------------------------------------------- the base version


def _load_base(store: Store, verdicts: Artifact, part: Mapping[str, Any]) -> Artifact | None:
    """The base version that the verdicts were judged against; None if its shards are cut by other rules."""
    if verdicts.facts["base"] is None:
        return None
    reference = Reference.parse(verdicts.facts["base"])
    assert reference.version is not None
    base = artifact.load(store, "dataset", reference.name, reference.version)
    same = base.config == part and base.facts["layout"] == STEP_VERSIONS["shard"]
    return base if same else None


def base_shards(store: Store, base: Artifact) -> Iterator[BaseShard]:
    """The base version's shards. One with a damaged file is written anew, in the same place; one that was purged is
    passed over: what is left of it is new rows.

    Raises IntegrityError if its facts cannot be read.
    """
    files = by_digest(base)
    for entry in base.by_role("facts"):
        try:
            table = read_parquet(store, entry.path, ["key", "digest"])
        except (FileNotFoundError, pl.exceptions.PolarsError) as error:
            if entry.path in purged(store, base):
                continue
            said = f"a table of {base.ref} that cannot be read; restore it, or build anew with --rebuild"
            raise IntegrityError(f"{entry.path}: {said}: {error}") from error
        whole = all(store.size(each.path) == each.size for each in files[entry.facts["digest"]].values())
        rows = table.with_columns(pl.col("digest").str.decode("hex"))
        yield BaseShard(entry.facts["digest"], entry.facts["split"], rows, whole)


def by_digest(version: Artifact) -> dict[str, dict[str, FileEntry]]:
    """The files of each shard of a version, by their roles."""
    found: dict[str, dict[str, FileEntry]] = {}
    for entry in version.files:
        if entry.role in ROLES:
            found.setdefault(entry.facts["digest"], {})[entry.role] = entry
    return found


def adopt(draft: Draft, base: Artifact, digests: Iterable[str]) -> list[ShardInfo]:
    """Name the files of these base shards in this version."""
    files = by_digest(base)
    return [name_files(draft, [files[digest][role] for role in ROLES]) for digest in digests]


def name_files(draft: Draft, entries: Sequence[FileEntry]) -> ShardInfo:
    """Name the four files of a shard, in the order of ROLES, in this version."""
    for entry in entries:
        draft.adopt(entry)
    tar, facts = entries[0], entries[1]
    return ShardInfo(tar.facts["split"], tar.facts["digest"], tar.path, facts.path, tar.facts["samples"], tar.size)


# ---------------------------------------------------------------- writing


def _write(
    name: str, made: Plan, facts: Facts, slots: Mapping[str, str], runtime: Runtime
) -> Iterator[list[FileEntry]]:
    """Write the planned shards, each a batch of work of its own; what it needs lies in the store until all are done."""
    store, token, paths = runtime.store, secrets.token_hex(8), list[str]()
    places_M = np.flatnonzero(made.shard_N >= 0)
    count_S = np.bincount(made.shard_N[places_M], minlength=len(made.splits))
    folder = Path(store.full(PLANS)) if store.local else None
    try:
        for table in by_shard(facts.tables(places_M, made.shard_N[places_M]), count_S, folder):
            # a name of this run's own: another that writes the same shards now must not take the plan away
            paths.append(f"{PLANS}/{name}/{token}-{len(paths):06d}.plan.parquet")
            store.write(paths[-1], parquet(table))
        work = [(store.uri, name, split, path, dict(slots)) for split, path in zip(made.splits, paths, strict=True)]
        with runtime.progress.bar("shard", len(made.shard_N)) as bar:
            entries = runtime.map("shard", write_shard, work, runtime.workers_for("shard", len(places_M)))
            bar.advance(len(made.shard_N))
    finally:
        # here and not by the task: one that is done a second time has to find it
        with contextlib.suppress(StoreError):
            for path in paths:
                store.delete(path)
    for each in entries:
        yield [FileEntry(**entry) for entry in each]


def _check(infos: Sequence[ShardInfo], rows: int, verdicts: Artifact) -> None:
    """Law 6 once more, on what was written. Raises IntegrityError."""
    check_counts(verdicts.facts["counts"])
    kept, written = verdicts.facts["counts"]["kept"], sum(info.samples for info in infos)
    if not written == rows == kept:
        raise IntegrityError(f"{verdicts.ref}: keeps {kept} rows, {rows} were read and {written} are in shards")
