"""What `validate` decided: a verdict on every input, with the tables that say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmgen.errors import IntegrityError
from mmgen.splits import SPLITS

#: verdicts that are written at once
CHUNK_ROWS = 16_384
VERDICTS = ("kept", "quarantined", "dropped")
KEPT = 0
VERDICT_SCHEMA: dict[str, Any] = {
    "row": pl.Int64, "key": pl.String, "verdict": pl.String, "reason": pl.String, "split": pl.String,
    "exemplar": pl.String, "repeats": pl.String, "similarity": pl.Float64,
    "dropped_slots": pl.List(pl.String), "digest": pl.String, "change": pl.String, "message": pl.String,
}  # fmt: skip
BASE_SCHEMA: dict[str, Any] = {"key": pl.String, "split": pl.String, "digest": pl.UInt64}


@dataclass(frozen=True)
class Base:
    """What the base version kept: key, split and `digest_words` of each sample. Empty where there is no base."""

    ref: str | None = None
    rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BASE_SCHEMA))


@dataclass(frozen=True)
class Decision:
    """verdicts: VERDICT_SCHEMA without the digest, one row per input, few-valued columns as categories.

    content_NB: the digests, for kept rows. quarantine: one row per rejection or flag. gate: why not, empty if it
    passed.
    """

    verdicts: pl.DataFrame
    content_NB: npt.NDArray[np.uint8]
    quarantine: pl.DataFrame
    counts: dict[str, int]
    splits: dict[str, int]
    gate: tuple[str, ...]

    def chunks(self) -> Iterator[pl.DataFrame]:
        """The verdicts as VERDICT_SCHEMA has them, piece by piece."""
        kept = pl.col("verdict") == VERDICTS[KEPT]
        for start in range(0, max(1, self.verdicts.height), CHUNK_ROWS):
            piece = slice(start, start + CHUNK_ROWS)
            table = self.verdicts[piece].with_columns(digest=hex_digests(self.content_NB[piece]))
            table = table.with_columns(digest=pl.when(kept).then("digest"))
            yield table.select(pl.col(name).cast(kind) for name, kind in VERDICT_SCHEMA.items())


def check_counts(counts: Mapping[str, int]) -> None:
    """Law 6: inputs = kept + quarantined + dropped. Raises IntegrityError."""
    made = counts["kept"] + counts["quarantined"] + counts["dropped"]
    if counts["inputs"] != made:
        raise IntegrityError(f"counts: {counts['inputs']} inputs, but kept + quarantined + dropped = {made}")


def split_rank(split: str) -> tuple[int, str]:
    """Order of splits in every table: train, validation, test, then others by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def named(codes: npt.NDArray[Any], names: Sequence[str]) -> pl.Series:
    """Names by code, as categories; null for −1."""
    return pl.Series([*names, None], dtype=pl.Enum(names)).gather(np.where(codes < 0, len(names), codes))


def hex_digests(content_NB: npt.NDArray[np.uint8]) -> pl.Series:
    """Digests as hex digits. content_NB: bytes of each."""
    return pl.Series([bytes(each).hex() for each in content_NB], dtype=pl.String)


def digest_words(digests: pl.Series) -> pl.Series:
    """64 bits of each digest, to compare rows within one run."""
    return digests.hash()
