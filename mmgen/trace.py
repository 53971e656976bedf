"""A sample's way through the line: row, batch, verdict, shard, features, and who learned from it."""

from __future__ import annotations

from typing import Any

import polars as pl

from mmgen import artifact
from mmgen.artifact import Artifact
from mmgen.errors import UnknownReference, unknown_name
from mmgen.forgotten import Ledger
from mmgen.holders import Holders, find_holders
from mmgen.store import Store
from mmgen.tables import read_parquet
from mmgen.tars import TarIndex, safe_key


def trace(store: Store, key: str, names: list[str]) -> list[dict[str, Any]]:
    """One entry per data set of `names` that knows the key: {"name", "versions", "features", "trained", "evalsets",
    "forgotten": whether the ledger names it}.

    A version: {"ref", "row", "batch", "verdict", "reason", "message", "split", "shard", "members": [{"name", "offset",
    "length", "sha256"}], "others": [{"row", "verdict", "reason", "message"}] of further rows with this key}, newest
    first; what a version does not tell is None. Raises UnknownReference.
    """
    if not names:
        raise UnknownReference(f"trace: wanted a store with a data set, {store.uri} has none")
    found, forgotten = [], list[str]()
    for name in names:
        if Ledger.read(store, name).line_of(key) is not None:
            forgotten.append(name)
        holders = find_holders(store, name, {key})
        if key in holders.found:
            found.append({
                "name": name,
                "versions": _versions(store, name, key, holders),
                "features": [each.ref for each in holders.features],
                "trained": [each.ref for each in holders.trained],
                "evalsets": [each.ref for each in holders.evalsets],
                "forgotten": name in forgotten,
            })  # fmt: skip
    if not found and forgotten:
        raise UnknownReference(f"'{key}' was forgotten (`mmgen forget`), and {store.uri} has nothing of it any more")
    if not found:
        near = [each for name in names for each in _keys(store, name)]
        said = unknown_name("key", key, near, listed=False)
        raise UnknownReference(f"{said} no version of {', '.join(names)} in {store.uri} has it")
    return found


def _keys(store: Store, name: str) -> list[str]:
    latest = artifact.latest(store, "dataset", name)
    tables = [read_parquet(store, entry.path, ["key"]) for entry in latest.by_role("facts")] if latest else []
    return [key for table in tables for key in table["key"]]


def _versions(store: Store, name: str, key: str, holders: Holders) -> list[dict[str, Any]]:
    """What the versions say, by number. A number may have verdicts alone (its gate failed) or none (`forget`)."""
    judged = {each.version: each for each in holders.verdicts}
    held = {each.version: each for each in holders.datasets}
    told = []
    for number in sorted({*judged, *held}, reverse=True):
        entry: dict[str, Any] = dict.fromkeys(("row", "batch", "verdict", "reason", "message", "split", "shard"))
        entry |= {"ref": f"dataset:{name}@{number}", "members": [], "others": []}
        if number in judged:
            entry |= _verdict(store, judged[number], key)
        if number in held:
            entry |= _place(store, held[number], key)
        told.append(entry)
    return told


def _verdict(store: Store, verdicts: Artifact, key: str) -> dict[str, Any]:
    table = read_parquet(store, verdicts.file("verdicts").path).filter(pl.col("key") == key)
    # a key may stand in several rows, of which one at most is kept
    row, *others = table.sort(pl.col("verdict") != "kept", "row").iter_rows(named=True)
    told = {name: row[name] for name in ("row", "verdict", "reason", "message", "split")}
    told["others"] = [{name: each[name] for name in ("row", "verdict", "reason", "message")} for each in others]
    return told | {"batch": _batch(store, verdicts, row["row"])}


def _batch(store: Store, verdicts: Artifact, row: int) -> str | None:
    """The staging tar of a row."""
    try:
        staging = artifact.load_link(store, verdicts.inputs["staging"])
    except UnknownReference:
        return None
    return next((tar.path for tar in reversed(staging.by_role("tar")) if tar.facts["first_row"] <= row), None)


def _place(store: Store, version: Artifact, key: str) -> dict[str, Any]:
    safe = safe_key(key)
    for entry in version.by_role("index"):
        if not store.exists(entry.path):
            continue
        index = TarIndex.from_bytes(store.read(entry.path), entry.path)
        members = [each for each in index.members if each.key == safe]
        if members:
            told = [{"name": each.name, "offset": each.offset, "length": each.length, "sha256": each.sha256}
                    for each in members]  # fmt: skip
            return {"shard": entry.path.removesuffix(".idx"), "split": entry.facts["split"], "members": told,
                    "verdict": "kept"}  # fmt: skip
    return {}
