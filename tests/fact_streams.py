"""Facts of any number of rows, batch by batch, with verdicts over them and media: what the data report reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from mmgen.artifact import Artifact, FileEntry
from mmgen.config import Config, build
from mmgen.decision import VERDICT_SCHEMA, Decision
from tests.data_sources import picture, sound

SOURCE: Mapping[str, Any] = {
    "kind": "table", "path": "t.csv", "key": "id", "text": "caption", "image": "image", "audio": "audio",
    "label": "label",
}  # fmt: skip
QUARANTINED, DROPPED = 7, 11


@dataclass(frozen=True)
class Facts:
    """Frames of `batch` rows each, the same ones at each reading; as a base version has them with `kept`."""

    rows: int
    config: Config = field(default_factory=lambda: build({"name": "tiny", "source": SOURCE}))
    batch: int = 512
    labels: int = 10
    caption_chars: int = 20
    kept: bool = False

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for first in range(0, self.rows, self.batch):
            yield self.frame(first, min(self.batch, self.rows - first))

    def frame(self, first: int, rows: int) -> pl.DataFrame:
        """The facts of these rows: each row's are its own, whatever batch it lies in."""
        number = np.arange(first, first + rows)
        columns: dict[str, Any] = {
            "row": number, "key": [f"k{at:07d}" for at in number],
            "label": [str(at % self.labels) for at in number.tolist()],
            "split": ["train"] * rows if self.kept else pl.Series([None] * rows, dtype=pl.String),
        }  # fmt: skip
        said = {name: ["long " * (self.caption_chars // 5)] for name, slot in self.config.slots.items()
                if slot.modality == "text"}  # fmt: skip
        columns["texts"] = [json.dumps(said)] * rows
        for name, slot in self.config.slots.items():
            columns |= {f"{name}.{fact}": value for fact, value in _slot(slot.modality, number).items()}
        return pl.DataFrame(columns)


def _slot(modality: str, number: Any) -> dict[str, Any]:
    # sizes from a hash of the row's number: the same however the rows are batched
    size = (number * 2_654_435_761 % 1_000_003) / 1_000_003
    own: dict[str, Any] = {"present": number % 50 != 0, "bytes": (1_000 * np.exp(5 * size)).astype(int)}
    match modality:
        case "image":
            return own | {"ext": "png", "width": 32 + (900 * size).astype(int), "height": 32 + number % 7,
                          "mode": ["L" if at % 3 else "RGB" for at in number.tolist()]}  # fmt: skip
        case "audio":
            return own | {"ext": "wav", "seconds": np.exp(3 * size), "rms_db": -40 * size, "peak": size,
                          "rate_hz": 16_000, "channels": 1 + number % 2}  # fmt: skip
        case _:
            return own | {"ext": "txt", "chars": 5 + number % 90, "words": 1 + number % 12}


def decided(rows: int) -> Decision:
    """Of every 77 rows 11 are quarantined and 6 dropped as copies of row 1."""
    number = np.arange(rows)
    bad, copy = number % QUARANTINED == 3, (number % DROPPED == 5) & (number % QUARANTINED != 3)
    kept = ~bad & ~copy
    split = np.where(number % 10 == 0, "test", np.where(number % 10 == 1, "validation", "train"))

    def where(which: Any, value: str) -> pl.Series:
        return pl.select(pl.when(pl.Series(which)).then(pl.lit(value))).to_series()

    verdicts = pl.DataFrame({
        "row": number, "key": [f"k{at:07d}" for at in range(rows)],
        "verdict": np.where(bad, "quarantined", np.where(copy, "dropped", "kept")),
        "reason": pl.select(pl.coalesce(where(bad, "truncated"), where(copy, "duplicate"))).to_series(),
        "split": pl.select(pl.when(pl.Series(kept)).then(pl.Series(split))).to_series(),
        "exemplar": where(copy, "k0000001"), "repeats": where(copy, "exact"), "similarity": 1.0,
        "dropped_slots": pl.Series([["audio"] if at == 2 else [] for at in range(rows)], dtype=pl.List(pl.String)),
        "digest": where(kept, "0" * 64), "change": where(kept, "unchanged"), "message": where(~kept, "what was wrong"),
    }, schema=VERDICT_SCHEMA)  # fmt: skip
    flagged = number[kept & (number % 2 == 0)]
    quarantine = pl.DataFrame({"row": flagged}).with_columns(
        key=pl.lit("k"), stage=pl.lit("ingest"), slot=pl.lit("text"), reason=pl.lit("pii_email"),
        severity=pl.lit("flag"), message=pl.lit("holds 1 e-mail address"),
    )  # fmt: skip
    counts = {"inputs": rows, "kept": int(kept.sum()), "quarantined": int(bad.sum()), "dropped": int(copy.sum())}
    splits = {name: int((kept & (split == name)).sum()) for name in ("train", "validation", "test")}
    return Decision(verdicts, np.zeros((rows, 32), np.uint8), quarantine, counts, splits, ())


def staging(rows: int, batch: int = 512) -> Artifact:
    """A staging whose batches begin every `batch` rows."""
    files = [FileEntry(f"{at}.tar", 1, "0" * 64, "tar", {"first_row": at}) for at in range(0, rows, batch)]
    return Artifact("staging", "tiny", 1, "f" * 64, "f" * 64, "ingest", {}, {}, tuple(files), {})


class Media:
    """Small pictures and sounds, or the same large ones again and again."""

    def __init__(self, image: bytes | None = None, audio: bytes | None = None) -> None:
        self.image, self.audio = image, audio

    def read(self, row: int, slot: str, ext: str) -> bytes:
        if ext == "png":
            return self.image or picture(row)
        return self.audio or sound(row)
