"""The scores table: one row per measured score. Made by `evaluate`, read by gates and model cards."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl


class Scores(pa.DataFrameModel):
    """metric: what was measured. given, made: slot names joined by '+', empty where there is none.
    judge: fingerprint or name of what judged. value within [low, high], its 95% interval over `n` samples."""

    metric: str = pa.Field(str_length={"min_value": 1})
    given: str
    made: str
    judge: str
    value: float
    low: float
    high: float
    n: int = pa.Field(ge=0)

    class Config:
        """Further columns would be read by nobody."""

        strict = True

    @pa.dataframe_check
    @classmethod
    def interval_holds_value(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """low ≤ value ≤ high, up to rounding."""
        slack = 1e-9
        return data.lazyframe.select(
            (pl.col("low") <= pl.col("value") + slack) & (pl.col("value") <= pl.col("high") + slack)
        )
