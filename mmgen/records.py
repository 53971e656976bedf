"""What travels through the line: samples, their slots, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Modality = Literal["text", "image", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "image", "audio")
Severity = Literal["reject", "flag"]
Stage = Literal["source", "ingest", "validate"]
#: how sources spell the names of splits
SPLIT_SPELLINGS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a video: its sound from start to end, in ms, or the frame that is shown halfway between them.

    size_bytes: at most as many, uncompressed, by the video's header.
    """

    start_ms: int
    end_ms: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MediaRef:
    """Where the bytes of an image or audio slot are.

    Either `uri` (a path or URL that the store layer can open) or `data` (embedded bytes);
    `written` is the text of the user's cell, for messages. span: (offset, length) within `uri`, None for all of it.
    cut: what of the video at `uri`.
    """

    uri: str | None
    data: bytes | None = None
    written: str = ""
    span: tuple[int, int] | None = None
    cut: Cut | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a source, before any of its bytes are read.

    row: 0-based record number in the source. key: the user's key, untouched.
    texts: slot → its alternatives (several captions), never empty tuples.
    media: slot → reference. A slot that is in neither is missing, which is normal.
    """

    row: int
    key: str
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    media: Mapping[str, MediaRef] = field(default_factory=dict)
    label: str | None = None
    group: str | None = None
    split: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row was quarantined (`reject`) or only noted (`flag`). One row of quarantine.parquet."""

    row: int
    key: str
    stage: Stage
    slot: str | None
    reason: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard of a dataset version. Paths are relative to the store.

    digest: sha256 of the tar's bytes, the identity of the shard.
    """

    split: str
    digest: str
    path: str
    facts_path: str
    samples: int
    size_bytes: int
