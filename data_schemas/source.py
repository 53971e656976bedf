"""A user's table: what its rows must have so that none is lost on its way into the line.

Which column is what is said by the user's configuration. Slots may be missing in any row (null or blank cells);
the key may not, and is unique. A table that passes is ingested without a rejection of a whole row.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandera.polars as pa
import polars as pl


def source_schema(
    *,
    key: str | None,
    texts: Sequence[str] = (),
    media: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> pa.DataFrameSchema:
    """The schema of a table with these columns; further ones are allowed.

    texts: sentences. media: paths relative to the table. labels: label, group, split and metadata, as text.
    """
    columns: dict[str, pa.Column] = {}
    if key is not None:
        columns[key] = pa.Column(pl.String, pa.Check.str_length(min_value=1), unique=True)
    columns |= {name: pa.Column(pl.String, nullable=True) for name in [*texts, *media, *labels] if name != key}
    slots = [*texts, *media]
    checks = [pa.Check(lambda data: _some_slot(data.lazyframe, slots), name="some_slot")] if slots else []
    return pa.DataFrameSchema(columns, checks=checks, strict=False)


def _some_slot(table: pl.LazyFrame, slots: Sequence[str]) -> pl.LazyFrame:
    """Per row, whether any slot has something in it."""
    filled = [pl.col(slot).fill_null("").str.strip_chars().str.len_chars() > 0 for slot in slots]
    return table.select(pl.any_horizontal(filled).alias("some_slot"))
