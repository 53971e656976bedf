"""Feature shards: one Arrow IPC file per media shard and feature set, with the media shard's keys in its order.

Columns: `key`, `label` (null where there is none), and one per slot: a list of fixed-size rows, empty where the slot
is missing, several where it holds alternatives. Files are memory-mapped: opening costs no reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mmgen.errors import IntegrityError, StoreError

FeatureSet = Literal["tensors", "latents", "embeddings"]
FORMAT = 1
_ARROW = {"uint8": pa.uint8(), "int32": pa.int32(), "float16": pa.float16(), "float32": pa.float32()}


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """How one slot's rows lie in a shard. shape: of one row, without B. dtype: a numpy name."""

    modality: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def width(self) -> int:
        """Numbers in one row."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True)
class SlotRows:
    """All rows of one slot: `rows` (R, *shape) and `offsets` (N + 1,): sample i has rows offsets[i]:offsets[i + 1]."""

    rows: np.ndarray
    offsets: np.ndarray

    @classmethod
    def stack(cls, samples: Sequence[Sequence[np.ndarray]], layout: SlotLayout) -> SlotRows:
        """Of each sample's list of alternatives (empty: missing)."""
        counts = [len(alternatives) for alternatives in samples]
        flat = [row for alternatives in samples for row in alternatives]
        rows = np.stack(flat) if flat else np.empty((0, *layout.shape), dtype=layout.dtype)
        if rows.shape[1:] != layout.shape:
            raise IntegrityError(f"features: wanted rows of shape {layout.shape}, came {rows.shape[1:]}")
        return cls(rows.astype(layout.dtype, copy=False), np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))

    @property
    def counts(self) -> np.ndarray:
        """Alternatives of each sample (N,)."""
        return np.diff(self.offsets)


def path_of(fingerprint: str, media_digest: str) -> str:
    """Where the features of one media shard lie in the store."""
    return f"features/{fingerprint[:16]}/{media_digest}.arrow"


def to_bytes(
    *,
    feature_set: FeatureSet,
    fingerprint: str,
    media_digest: str,
    keys: Sequence[str],
    labels: Sequence[str | None],
    layouts: Mapping[str, SlotLayout],
    slots: Mapping[str, SlotRows],
) -> bytes:
    """One feature shard as an Arrow IPC file."""
    columns: dict[str, pa.Array] = {"key": pa.array(keys, pa.string()), "label": pa.array(labels, pa.string())}
    for slot, layout in layouts.items():
        found = slots[slot]
        flat = pa.array(np.ascontiguousarray(found.rows).reshape(-1), _ARROW[layout.dtype])
        items = pa.FixedSizeListArray.from_arrays(flat, layout.width)
        columns[f"slot.{slot}"] = pa.ListArray.from_arrays(pa.array(found.offsets, pa.int32()), items)
    about = {
        "format": FORMAT,
        "set": feature_set,
        "fingerprint": fingerprint,
        "media": media_digest,
        "slots": {slot: [layout.modality, list(layout.shape), layout.dtype] for slot, layout in layouts.items()},
    }
    schema = pa.schema(
        [(name, column.type) for name, column in columns.items()], {"mmgen": json.dumps(about, sort_keys=True)}
    )
    batch = pa.record_batch(list(columns.values()), schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


@dataclass(frozen=True)
class FeatureShard:
    """An opened feature shard. Its arrays are read-only views of the mapped file."""

    feature_set: FeatureSet
    fingerprint: str
    media_digest: str
    keys: list[str]
    labels: list[str | None]
    layouts: dict[str, SlotLayout]
    slots: dict[str, SlotRows]

    @classmethod
    def open(cls, path: str | Path) -> FeatureShard:
        """Map a file. Raises IntegrityError if it is no feature shard of a format that this version reads."""
        try:
            with pa.memory_map(str(path), "r") as source:
                table = pa.ipc.open_file(source).read_all()
        except (pa.ArrowInvalid, pa.ArrowSerializationError) as error:
            raise IntegrityError(f"{path}: wanted a feature shard, {error}") from error
        except OSError as error:
            raise StoreError(f"could not read {path}: {error}") from error
        return cls._of(table, str(path))

    @classmethod
    def _of(cls, table: pa.Table, where: str) -> FeatureShard:
        about: dict[str, Any] = json.loads((table.schema.metadata or {}).get(b"mmgen", b"{}"))
        if about.get("format") != FORMAT:
            raise IntegrityError(f"{where}: feature shard format {about.get('format')}, this mmgen reads {FORMAT}")
        layouts = {slot: SlotLayout(kind, tuple(shape), dtype) for slot, (kind, shape, dtype) in about["slots"].items()}
        slots = {slot: _rows(table.column(f"slot.{slot}"), layout) for slot, layout in layouts.items()}
        keys, labels = table.column("key").to_pylist(), table.column("label").to_pylist()
        return cls(about["set"], about["fingerprint"], about["media"], keys, labels, layouts, slots)

    def __len__(self) -> int:
        return len(self.keys)

    def check(self, *, fingerprint: str, media_digest: str, keys: Sequence[str] | None = None) -> None:
        """Raise IntegrityError unless this is what `fingerprint` makes of that media shard (and has its keys)."""
        if (self.fingerprint, self.media_digest) != (fingerprint, media_digest):
            raise IntegrityError(
                f"features: wanted {fingerprint[:12]} of media shard {media_digest[:12]}, "
                f"came {self.fingerprint[:12]} of {self.media_digest[:12]}"
            )
        if keys is not None and list(keys) != self.keys:
            raise IntegrityError(
                f"features of media shard {media_digest[:12]}: wanted its {len(keys)} keys in order, "
                f"came {len(self.keys)} that differ"
            )


def _rows(column: pa.ChunkedArray, layout: SlotLayout) -> SlotRows:
    chunk = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    flat = chunk.values.values.to_numpy(zero_copy_only=True)
    return SlotRows(flat.reshape(-1, *layout.shape), chunk.offsets.to_numpy(zero_copy_only=True))
