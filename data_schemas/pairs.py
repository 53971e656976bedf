"""The table of pair scores: one row per sample and pair of its slots. Made by a fusion model, read by `validate`."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from pandera.engines.polars_engine import Float32, Int32, Int64
from pandera.errors import SchemaErrors


class Pairs(pa.DataFrameModel):
    """How alike a sample's slots are to a fusion model.

    row, key: of the sample. given, other: two of its slots, given < other by name. similarity: cosine of the slots' own
    embeddings, in [-1, 1]. shuffled: the same of `given` with the `other` of another sample, drawn by hash. outranked:
    the share of `among` such partners, drawn for either half, that fit that half better. odd: the slot that fits the
    sample's other slots least. better_key: of the odd slot's pairs, for the worst samples: the key of a sample whose
    slot fits it as true pairs do, and better_similarity how well; null where none is known.
    """

    row: Int64 = pa.Field(ge=0)
    key: str
    given: str
    other: str
    similarity: Float32 = pa.Field(ge=-1, le=1)
    shuffled: Float32 = pa.Field(ge=-1, le=1, nullable=True)
    outranked: Float32 = pa.Field(ge=0, le=1, nullable=True)
    among: Int32 = pa.Field(ge=0)
    odd: str
    better_key: str = pa.Field(nullable=True)
    better_similarity: Float32 = pa.Field(ge=-1, le=1, nullable=True)

    class Config:
        """Further columns would be read by nobody."""

        strict = True

    @pa.dataframe_check
    @classmethod
    def slots_in_order(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Each pair of slots is there once."""
        return data.lazyframe.select(pl.col("given") < pl.col("other"))


def broken(table: pl.DataFrame) -> str:
    """What breaks the schema, in one line; empty if nothing does."""
    try:
        Pairs.validate(table, lazy=True)
    except SchemaErrors as errors:
        case = errors.failure_cases.row(0, named=True)
        return f"column '{case['column']}': wanted {case['check']}, came {case['failure_case']}"
    return ""
