"""The facts table: one row per probed sample of a staging batch or a shard. Made by `ingest`, read by all after it.

Fixed columns:
    row     0-based record number in the source
    key     the user's key, unique
    label, group, split   the user's columns, null where there are none
    meta    JSON object of strings: further columns
    texts   JSON object: text slot → its alternatives
and for each slot `<slot>.present`, `.sha256` (hex, of the bytes as they came), `.bytes`, `.ext` (null where absent),
and what its modality probes: image `.width .height .mode .phash`; audio `.seconds .rate_hz .channels .rms_db .peak
.ahash`; text `.chars .words`. Hashes are 16 hex digits (64 bits). `rms_db` is in dBFS, `peak` is of full scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

SHA256 = r"^[0-9a-f]{64}$"
HASH64 = r"^[0-9a-f]{16}$"


def _slot_columns(slot: str, modality: str) -> dict[str, pa.Column]:
    """Columns of one slot."""
    # probe facts are null where the slot is absent or could not be decoded
    probed: dict[str, dict[str, pa.Column]] = {
        "image": {
            "width": pa.Column(pl.Int64, pa.Check.ge(1), nullable=True),
            "height": pa.Column(pl.Int64, pa.Check.ge(1), nullable=True),
            "mode": pa.Column(pl.String, nullable=True),
            "phash": pa.Column(pl.String, pa.Check.str_matches(HASH64), nullable=True),
        },
        "audio": {
            "seconds": pa.Column(pl.Float64, pa.Check.ge(0), nullable=True),
            "rate_hz": pa.Column(pl.Int64, pa.Check.ge(1), nullable=True),
            "channels": pa.Column(pl.Int64, pa.Check.ge(1), nullable=True),
            "rms_db": pa.Column(pl.Float64, nullable=True),
            "peak": pa.Column(pl.Float64, pa.Check.ge(0), nullable=True),
            "ahash": pa.Column(pl.String, pa.Check.str_matches(HASH64), nullable=True),
        },
        "text": {
            "chars": pa.Column(pl.Int64, pa.Check.ge(0), nullable=True),
            "words": pa.Column(pl.Int64, pa.Check.ge(0), nullable=True),
        },
    }
    own = {
        "present": pa.Column(pl.Boolean),
        "sha256": pa.Column(pl.String, pa.Check.str_matches(SHA256), nullable=True),
        "bytes": pa.Column(pl.Int64, pa.Check.ge(0), nullable=True),
        "ext": pa.Column(pl.String, nullable=True),
    }
    return {f"{slot}.{name}": column for name, column in (own | probed[modality]).items()}


def facts_schema(slots: Mapping[str, str]) -> pa.DataFrameSchema:
    """The schema for these slots (name → modality). Further columns are allowed: a later version may measure more."""
    columns: dict[str, pa.Column] = {
        "row": pa.Column(pl.Int64, pa.Check.ge(0), unique=True),
        "key": pa.Column(pl.String, pa.Check.str_length(min_value=1)),
        "label": pa.Column(pl.String, nullable=True),
        "group": pa.Column(pl.String, nullable=True),
        "split": pa.Column(pl.String, nullable=True),
        "meta": pa.Column(pl.String),
        "texts": pa.Column(pl.String),
    }
    for slot, modality in slots.items():
        columns |= _slot_columns(slot, modality)
    return pa.DataFrameSchema(columns, strict=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """One place where a table breaks its schema. index: the row's place in the table, None for a whole column."""

    column: str
    check: str
    value: str
    index: int | None


def failures(facts: pl.DataFrame, slots: Mapping[str, str], *, cap: int = 1_000) -> list[Failure]:
    """Where `facts` breaks the schema, at most `cap` places, columns before rows. Empty if it does not.

    The table is checked eagerly: pandera checks a LazyFrame's types only.
    """
    try:
        facts_schema(slots).validate(facts, lazy=True)
    except SchemaErrors as errors:
        cases: list[dict[str, Any]] = errors.failure_cases.head(10 * cap).to_dicts()
        found = [
            Failure(
                str(case["column"] or case["failure_case"]),
                str(case["check"]),
                str(case["failure_case"])[:80],
                case["index"],
            )
            for case in cases
        ]
        found.sort(key=lambda each: (each.index is not None, each.index or 0, each.column, each.check))
        return found[:cap]
    return []
