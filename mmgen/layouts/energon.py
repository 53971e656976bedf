"""Numbered tars with what `energon prepare` writes beside them (megatron-energon 7.4.1), so that nothing is left to it.

In `.nv-meta`: `.info.json` (and `.info.yaml`, which it read before) with the samples of each tar, `split.yaml` with the
tars of each split, `dataset.yaml` on how samples are read, `index.sqlite` with where each sample and part of it is.
Beside a tar, `.tar.idx`: the offsets at which samples start, and the end, as 64-bit integers; not our own index.
"""

from __future__ import annotations

import itertools
import sqlite3
import struct
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import yaml

from mmgen.artifact import Artifact
from mmgen.layouts.numbered import facts_of, numbered, sizes, slots_of, tar_of, write_json
from mmgen.report.readme import energon_readme, tar_features
from mmgen.store import Store
from mmgen.tars import BLOCK, Member, TarIndex

META = ".nv-meta"
_TABLES = """
CREATE TABLE samples (
    tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
    byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (
    tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, content_byte_offset INTEGER, content_byte_size INTEGER);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts(
    tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A sample of a tar: bytes start:stop, headers and padding included."""

    key: str
    start: int
    stop: int
    members: tuple[Member, ...]


def energon(store: Store, version: Artifact, folder: Path) -> Iterator[None]:
    """Write it; yields after each shard. Raises IntegrityError."""
    meta = folder / META
    meta.mkdir()
    counts: dict[str, int] = {}
    splits: dict[str, list[str]] = {}
    with closing(sqlite3.connect(meta / "index.sqlite")) as index:
        index.executescript(_TABLES)
        for place, shard in enumerate(numbered(version)):
            (folder / shard.split).mkdir(exist_ok=True)
            tar, members = tar_of(store, version, shard)
            placed = _placed(members)
            name = f"{shard.stem}.tar"
            (folder / name).write_bytes(tar)
            (folder / f"{name}.idx").write_bytes(_offsets(placed))
            _note(index, place, placed)
            counts[name] = len(placed)
            splits.setdefault(shard.split, []).append(name)
            yield
        index.executescript(_INDEXES)
        index.commit()
    if "validation" in splits:
        # the one that energon's get_val_dataset asks for
        splits = {
            "val" if split == "validation" and "val" not in splits else split: each for split, each in splits.items()
        }
    write_json(meta / ".info.json", {"shard_counts": counts})
    _write_yaml(meta / ".info.yaml", {"shard_counts": counts})
    _write_yaml(meta / "split.yaml", {"split_parts": splits, "exclude": []})
    _write_yaml(meta / "dataset.yaml", {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"})
    (meta / "index.uuid").write_text(str(uuid.uuid5(uuid.NAMESPACE_OID, version.fingerprint)), encoding="utf-8")
    features = tar_features(facts_of(store, version), slots_of(version))
    readme = energon_readme(version.name, version.version, version.facts, sizes(version), features)
    (folder / "README.md").write_bytes(readme)


def _placed(index: TarIndex) -> list[_Placed]:
    """The samples of a tar: each begins where the padding of the one before it ends."""
    found, at = [], 0
    for key, group in itertools.groupby(index.members, lambda member: member.key):
        members = tuple(group)
        last = members[-1]
        stop = last.offset + -(-last.length // BLOCK) * BLOCK
        found.append(_Placed(key, at, stop, members))
        at = stop
    return found


def _offsets(placed: Sequence[_Placed]) -> bytes:
    offsets = [*(each.start for each in placed), placed[-1].stop]
    return struct.pack(f"<{len(offsets)}Q", *offsets)


def _note(index: sqlite3.Connection, tar: int, placed: Sequence[_Placed]) -> None:
    """Put the samples of the tar of this number into the database."""
    index.executemany(
        "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
        ((tar, each.key, number, each.start, each.stop - each.start) for number, each in enumerate(placed)),
    )
    index.executemany(
        "INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)",
        ((tar, number, member.suffix, member.offset, member.length)
         for number, each in enumerate(placed) for member in each.members),
    )  # fmt: skip


def _write_yaml(path: Path, value: object) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
