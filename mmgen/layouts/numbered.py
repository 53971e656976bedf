"""Shards of a version under numbers, and their bytes, checked as they are read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from mmgen.artifact import Artifact, FileEntry
from mmgen.errors import IntegrityError
from mmgen.store import Store, sha256
from mmgen.tars import TarIndex
from mmgen.tombstones import purged


@dataclass(frozen=True, slots=True)
class Numbered:
    """A shard of a version. number: within its split, of `count`. files: role → entry."""

    split: str
    number: int
    count: int
    files: dict[str, FileEntry] = field(repr=False)

    @property
    def stem(self) -> str:
        """`<split>/00000`."""
        return f"{self.split}/{self.number:05d}"


def numbered(version: Artifact) -> Iterator[Numbered]:
    """The shards of a version in its order."""
    by_digest: dict[str, dict[str, FileEntry]] = {}
    for entry in version.files:
        if "digest" in entry.facts:
            by_digest.setdefault(str(entry.facts["digest"]), {})[entry.role] = entry
    shards = version.by_role("shard")
    splits = [str(tar.facts["split"]) for tar in shards]
    for place, tar in enumerate(shards):
        split = splits[place]
        yield Numbered(split, splits[:place].count(split), splits.count(split), by_digest[str(tar.facts["digest"])])


def sizes(version: Artifact) -> dict[str, list[int]]:
    """Split → bytes of each of its tars."""
    found: dict[str, list[int]] = {}
    for tar in version.by_role("shard"):
        found.setdefault(str(tar.facts["split"]), []).append(tar.size)
    return found


def slots_of(version: Artifact) -> dict[str, str]:
    """Slot → modality."""
    return {slot: str(each["modality"]) for slot, each in version.facts["slots"].items()}


def checked(store: Store, version: Artifact, entry: FileEntry) -> bytes:
    """The bytes of a file of the version. Raises IntegrityError if they are gone or not as recorded."""
    try:
        data = store.read(entry.path)
    except FileNotFoundError:
        gone = "was purged (`mmgen forget --purge`)" if entry.path in purged(store, version) else "is missing"
        raise IntegrityError(f"{version.ref}: {entry.path} {gone}; `mmgen verify {version.ref}` tells all") from None
    if sha256(data) != entry.sha256:
        raise IntegrityError(
            f"{version.ref}: {entry.path} is not what was written; `mmgen verify {version.ref}` tells all"
        )
    return data


def tar_of(store: Store, version: Artifact, shard: Numbered) -> tuple[bytes, TarIndex]:
    """The bytes of a shard, and where its members are in them. Raises IntegrityError."""
    index = shard.files["index"]
    return checked(store, version, shard.files["shard"]), TarIndex.from_bytes(
        checked(store, version, index), index.path
    )


def facts_of(store: Store, version: Artifact) -> Iterator[pl.DataFrame]:
    """The facts of the samples, shard by shard. Raises IntegrityError."""
    for entry in version.by_role("facts"):
        yield pl.read_parquet(io.BytesIO(checked(store, version, entry)))


def write_json(path: Path, value: Any) -> None:
    """A JSON file for people and programs."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
