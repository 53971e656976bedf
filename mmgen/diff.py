"""What changed between two versions of a data set: samples, splits, counts, shards, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mmgen import artifact
from mmgen.artifact import Artifact
from mmgen.decision import split_rank
from mmgen.errors import IntegrityError
from mmgen.store import Store
from mmgen.tables import read_parquet
from mmgen.tombstones import purged

SHOWN = 20
COUNTS = ("inputs", "kept", "quarantined", "dropped")


def differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted paths at which two configurations differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted({*old, *new})
        return [
            line
            for key in keys
            for line in differing(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [path]


def diff(store: Store, one: Artifact, other: Artifact) -> dict[str, Any]:
    """What `other` has that `one` has not, and the other way round.

    {"counts", "splits": {name: [one's, other's]}, "samples": {"unchanged", "added", "removed", "changed", "moved"},
    "added", "removed": first keys, "changed": [{"key", "parts"}], "moved": [{"key", "from", "to"}],
    "shards": {"shared", "gone", "new"}, "settings": dotted paths that differ}. Samples of shared shards are not read.
    Raises IntegrityError if facts are gone or broken.
    """
    mine, theirs = ({str(entry.facts["digest"]): entry for entry in each.by_role("facts")} for each in (one, other))
    shared = mine.keys() & theirs.keys()
    before = _facts(store, one, [entry.path for digest, entry in mine.items() if digest not in shared])
    after = _facts(store, other, [entry.path for digest, entry in theirs.items() if digest not in shared])
    both = before.select("key", "digest", "split").join(after.select("key", "digest", "split"), on="key", suffix="_new")
    changed = both.filter(pl.col("digest") != pl.col("digest_new"))["key"].sort().to_list()
    moved = both.filter(pl.col("split") != pl.col("split_new")).sort("key")
    added = after.join(before, on="key", how="anti")["key"].sort().to_list()
    removed = before.join(after, on="key", how="anti")["key"].sort().to_list()
    kept = sum(int(mine[digest].facts["samples"]) for digest in shared)
    return {
        "one": one.ref,
        "other": other.ref,
        "counts": _side_by_side(COUNTS, one.facts["counts"], other.facts["counts"]),
        "splits": _side_by_side(_splits(one, other), one.facts["splits"], other.facts["splits"]),
        "samples": {
            "unchanged": kept + both.height - len(changed), "added": len(added), "removed": len(removed),
            "changed": len(changed), "moved": moved.height,
        },
        "added": added[:SHOWN],
        "removed": removed[:SHOWN],
        "changed": [{"key": key, "parts": _parts(before, after, key)} for key in changed[:SHOWN]],
        "moved": [{"key": row["key"], "from": row["split"], "to": row["split_new"]}
                  for row in moved.head(SHOWN).iter_rows(named=True)],
        "shards": {"shared": len(shared), "gone": len(mine) - len(shared), "new": len(theirs) - len(shared)},
        "settings": differing(_settings(store, one), _settings(store, other)),
    }  # fmt: skip


def _side_by_side(names: Sequence[str], one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, list[int]]:
    return {name: [one.get(name, 0), other.get(name, 0)] for name in names}


def _splits(one: Artifact, other: Artifact) -> list[str]:
    return sorted({*one.facts["splits"], *other.facts["splits"]}, key=split_rank)


def _facts(store: Store, version: Artifact, paths: Sequence[str]) -> pl.DataFrame:
    try:
        tables = [read_parquet(store, path) for path in paths]
    except (FileNotFoundError, pl.exceptions.PolarsError) as error:
        if purged(store, version).intersection(paths):
            said = "samples of it were purged (`mmgen forget --purge`), and what it said of their neighbours with them"
            raise IntegrityError(f"{version.ref}: {said}; wanted a version that is whole") from error
        raise IntegrityError(f"{version.ref}: the facts of its samples cannot be read: {error}") from error
    empty = pl.DataFrame(schema={"key": pl.String, "digest": pl.String, "split": pl.String})
    return pl.concat([empty, *tables], how="diagonal_relaxed")


def _parts(before: pl.DataFrame, after: pl.DataFrame, key: str) -> list[str]:
    """Of a changed sample, what changed: label, group, meta, or slots by name."""
    old, new = (table.row(by_predicate=pl.col("key") == key, named=True) for table in (before, after))
    parts = [name for name in ("label", "group", "meta") if old.get(name) != new.get(name)]
    slots = sorted({name.removesuffix(".sha256") for name in (*old, *new) if name.endswith(".sha256")})
    # the bytes of a text are its first alternative alone
    said, says = (json.loads(row["texts"]) for row in (old, new))
    return parts + [slot for slot in slots if old.get(f"{slot}.sha256") != new.get(f"{slot}.sha256")
                    or said.get(slot) != says.get(slot)]  # fmt: skip


def _settings(store: Store, version: Artifact) -> dict[str, Any]:
    """The settings of the data steps that made a version, by step."""
    made = [version, *artifact.lineage(store, version).values()]
    # one that `forget` made has the settings of its base
    return {each.step: dict(each.config) for each in reversed(made) if each.step in ("ingest", "validate", "shard")}
