"""The scores table's schema."""

from __future__ import annotations

import polars as pl
import pytest
from pandera.errors import SchemaError

from data_schemas.scores import Scores

ROW = {
    "metric": "coherence", "given": "text", "made": "image", "judge": "image@1",
    "value": 0.9, "low": 0.88, "high": 0.92, "n": 500,
}  # fmt: skip


def test_a_good_table_passes() -> None:
    table = pl.DataFrame([ROW, {**ROW, "given": "", "made": "text+image"}])
    assert Scores.validate(table).equals(table)


@pytest.mark.parametrize(
    "change", [{"low": 0.91}, {"high": 0.89}, {"n": -1}, {"metric": ""}, {"value": None}, {"more": 1}]
)
def test_a_broken_row_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SchemaError):
        Scores.validate(pl.DataFrame([{**ROW, **change}], schema_overrides={"value": pl.Float64}))
