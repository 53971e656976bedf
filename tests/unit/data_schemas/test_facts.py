"""The facts table's schema: what ingest writes passes, and each break is found at its place."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from data_schemas.facts import failures
from mmgen.ingest import ingest
from mmgen.runtime import Runtime
from mmgen.staging import read_facts
from tests.data_sources import table_config, write_source

SLOTS = {"text": "text", "image": "image", "audio": "audio"}


@pytest.fixture
def facts(tmp_path: Path, runtime: Runtime) -> pl.DataFrame:
    source = write_source(tmp_path / "source", 12, lambda records, _: records[3].update(audio="", caption=""))
    return read_facts(runtime.store, ingest(table_config(source), {}, runtime))


def test_what_ingest_writes_passes(facts: pl.DataFrame) -> None:
    assert failures(facts, SLOTS) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("row", -1), ("key", ""), ("key", None), ("meta", None), ("image.present", None), ("image.sha256", "abc"),
        ("image.width", 0), ("image.phash", "xyz"), ("audio.seconds", -0.5), ("audio.rate_hz", 0), ("text.chars", -1),
    ],
)  # fmt: skip
def test_a_broken_value_is_found_at_its_row(facts: pl.DataFrame, column: str, value: object) -> None:
    kind = facts.schema[column]
    broken = facts.with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(value, kind)).otherwise(pl.col(column)).alias(column)
    )
    found = failures(broken, SLOTS)
    assert [(failure.column, failure.index) for failure in found] == [(column, 7)]


def test_a_missing_column_or_wrong_type_is_of_the_whole_column(facts: pl.DataFrame) -> None:
    found = failures(facts.drop("image.mode"), SLOTS)
    assert [(failure.column, failure.index) for failure in found] == [("image.mode", None)]
    found = failures(facts.with_columns(pl.col("image.width").cast(pl.Float64)), SLOTS)
    assert (found[0].column, found[0].index) == ("image.width", None)


def test_failures_are_capped(facts: pl.DataFrame) -> None:
    assert len(failures(facts.with_columns(key=pl.lit("")), SLOTS, cap=5)) == 5


def test_repeated_rows_are_found(facts: pl.DataFrame) -> None:
    assert {failure.column for failure in failures(pl.concat([facts, facts.head(1)]), SLOTS)} == {"row"}
