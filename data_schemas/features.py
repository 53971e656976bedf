"""The feature table: one row per sample of a feature shard, in the order of its media shard. Made by `extract`.

Columns: `key`, `label` (null where there is none), and for each slot the list of its alternatives, each a flat row of
numbers of the slot's width: empty where the slot is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandera.polars as pa
import polars as pl

DTYPES: dict[str, Any] = {"uint8": pl.UInt8, "int32": pl.Int32, "float16": pl.Float16, "float32": pl.Float32}


def features_schema(slots: Mapping[str, tuple[str, int]]) -> pa.DataFrameSchema:
    """The schema for these slots: name → (numpy's name of the type, numbers in a row)."""
    columns: dict[str, pa.Column] = {
        "key": pa.Column(pl.String, pa.Check.str_length(min_value=1), unique=True),
        "label": pa.Column(pl.String, nullable=True),
    }
    for slot, (dtype, width) in slots.items():
        columns[slot] = pa.Column(pl.List(pl.Array(DTYPES[dtype], width)))
    return pa.DataFrameSchema(columns, strict=True)
