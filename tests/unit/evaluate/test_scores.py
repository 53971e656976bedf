"""Score rows as a table and as facts."""

from __future__ import annotations

import io

import polars as pl
import pytest
from pandera.errors import SchemaError

from mmgen.evaluate import scores
from mmgen.evaluate.intervals import wilson


def test_the_parquet_table_holds_the_rows_in_order() -> None:
    rows = [
        scores.score(scores.COHERENCE, ["text"], ["image"], "judge:image", wilson(9, 10)),
        scores.score(scores.JOINT_COHERENCE, [], ["text", "image"], "judge:all", wilson(5, 10)),
    ]
    table = pl.read_parquet(io.BytesIO(scores.to_parquet(rows)))
    assert table.columns == ["metric", "given", "made", "judge", "value", "low", "high", "n"]
    assert table["made"].to_list() == ["image", "text+image"]
    assert table["value"].to_list() == [0.9, 0.5]


def test_an_empty_table_is_still_a_table() -> None:
    assert pl.read_parquet(io.BytesIO(scores.to_parquet([]))).height == 0


def test_an_interval_without_its_value_is_refused() -> None:
    with pytest.raises(SchemaError):
        scores.to_parquet([scores.Score("coherence", "a", "b", "j", 0.9, 0.1, 0.2, 5)])


def test_the_mean_row_is_the_mean_of_the_directions() -> None:
    rows = [scores.score(scores.COHERENCE, [g], [m], "j", wilson(k, 10)) for g, m, k in (("a", "b", 8), ("b", "a", 10))]
    mean = scores.mean_of(scores.MEAN_COHERENCE, rows, "judges")
    assert (mean.value, mean.n) == (pytest.approx(0.9), 10)
    assert mean.low == pytest.approx((rows[0].low + rows[1].low) / 2)


def test_a_judges_accuracy_stands_beside_its_scores() -> None:
    rows = [
        scores.score(scores.JUDGE_ACCURACY, [], ["image"], "judge:image", wilson(99, 100)),
        scores.score(scores.COHERENCE, ["text"], ["image"], "judge:image", wilson(9, 10)),
        scores.score(scores.TEXT_EXACT, ["text"], ["text"], "", wilson(10, 10)),
    ]
    _, coherence, exact = scores.plain(rows)
    assert coherence["judge_accuracy"] == 0.99
    assert "judge_accuracy" not in exact
