"""The four files of a shard: its tar, the facts of exactly its rows, its index and stats."""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import polars as pl

from mmgen.artifact import FileEntry, canonical_json
from mmgen.errors import IntegrityError
from mmgen.store import Store, sha256
from mmgen.tables import parquet
from mmgen.tars import TarWriter, member_suffix, safe_key

ROLES = ("shard", "facts", "index", "stats")
#: tars that are held open at once: the rows of a shard may lie in thousands
OPEN_TARS = 64


def write_shard(uri: str, name: str, split: str, rows: str, slots: Mapping[str, str]) -> list[dict[str, Any]]:
    """Write one shard into the store at `uri`. Returns its four file entries as plain data.

    rows: the path of a Parquet table: the shard's rows in the order of its tar, as `mmgen/shard_facts.py` gives them.
    """
    store = Store(uri)
    table = pl.read_parquet(io.BytesIO(store.read(rows)))
    return [asdict(entry) for entry in write_files(store, name, split, table, slots)]


def write_files(store: Store, name: str, split: str, table: pl.DataFrame, slots: Mapping[str, str]) -> list[FileEntry]:
    """Write the four files of a shard, in the order of ROLES.

    table: its rows in the order of the tar, as `mmgen/shard_facts.py` gives them. Raises IntegrityError if bytes are
    not what the facts tell of them.
    """
    folder = f"datasets/{name}/shards"
    with store.pieces(folder) as tar, _Tars(store) as tars:
        writer = TarWriter(tar)
        for member, data, digest in _members(table, tars, slots):
            writer.add(member, data, digest)
        index = writer.close()
        # its name is its digest, so it has one only now
        stem = f"{folder}/{split}-{index.sha256}"
        tar.commit(f"{stem}.tar")
    table = table.drop("tar", "shard", *(f"{slot}@" for slot, modality in slots.items() if modality != "text"))
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


class _Tars:
    """Bytes out of many tars of a store, by where they lie."""

    def __init__(self, store: Store) -> None:
        self._files = dict[str, int]()
        # of a remote store each costs a request
        self._local = functools.cache(store.local_path)

    def read(self, path: str, offset: int, length: int, digest: str) -> bytes:
        """The bytes of this digest. Raises IntegrityError if others, or none, are there."""
        if path not in self._files:
            if len(self._files) >= OPEN_TARS:
                self.close()
            try:
                self._files[path] = os.open(self._local(path), os.O_RDONLY)
            except FileNotFoundError:
                raise IntegrityError(f"{path}: missing; restore it, or run ingest again") from None
        data = os.pread(self._files[path], length, offset)
        if sha256(data) != digest:
            said = f"the {length} bytes at {offset} are not what was recorded; restore it, or run ingest again"
            raise IntegrityError(f"{path}: {said}")
        return data

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def __enter__(self) -> _Tars:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _members(table: pl.DataFrame, tars: _Tars, slots: Mapping[str, str]) -> Iterator[tuple[str, bytes, str | None]]:
    """The tar's members in their sorted order: name, bytes and, of media, their digest.

    Media are the source's bytes, verbatim, checked as they are read.
    """
    columns = [table[name].to_list() for name in ("key", "label", "group", "texts", "meta", "tar")]
    names = ("present", "ext", "bytes", "sha256")
    of_slot = {
        slot: list(zip(*(table[f"{slot}.{name}"].to_list() for name in names),
                       [None] * table.height if modality == "text" else table[f"{slot}@"].to_list(), strict=True))
        for slot, modality in slots.items()
    }  # fmt: skip
    for at, (key, label, group, texts_json, meta_json, tar) in enumerate(zip(*columns, strict=True)):
        mine = {slot: row[at] for slot, row in of_slot.items() if row[at][0]}
        texts = {slot: each for slot, each in json.loads(texts_json).items() if slot in mine}
        about = {"key": key, "label": label, "group": group, "texts": texts, "meta": json.loads(meta_json)}
        members: list[tuple[str, bytes, str | None]] = [("json", canonical_json(about), None)]
        for slot, (_, ext, length, digest, offset) in mine.items():
            if slots[slot] == "text":
                members.append((member_suffix(slot, "txt"), texts[slot][0].encode(), None))
            else:
                members.append((member_suffix(slot, ext), tars.read(tar, offset, length, digest), digest))
        safe = safe_key(key)
        yield from ((f"{safe}.{suffix}", data, digest) for suffix, data, digest in sorted(members))


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
