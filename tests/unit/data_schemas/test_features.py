"""The feature table's schema."""

from __future__ import annotations

import polars as pl
import pytest
from pandera.errors import SchemaError

from data_schemas.features import features_schema

SCHEMA = {"key": pl.String, "label": pl.String, "text": pl.List(pl.Array(pl.Int32, 3))}


def test_rows_of_the_slots_width_pass_and_a_missing_slot_is_an_empty_list() -> None:
    table = pl.DataFrame({"key": ["a", "b"], "label": ["1", None], "text": [[[1, 2, 3], [4, 5, 6]], []]}, schema=SCHEMA)
    features_schema({"text": ("int32", 3)}).validate(table)


@pytest.mark.parametrize("slots", [{"text": ("int32", 4)}, {"text": ("float32", 3)}, {"image": ("uint8", 3)}, {}])
def test_other_widths_types_and_slots_are_refused(slots: dict[str, tuple[str, int]]) -> None:
    table = pl.DataFrame({"key": ["a"], "label": ["1"], "text": [[[1, 2, 3]]]}, schema=SCHEMA)
    with pytest.raises(SchemaError):
        features_schema(slots).validate(table)


def test_keys_are_unique() -> None:
    table = pl.DataFrame({"key": ["a", "a"], "label": ["1", "1"], "text": [[], []]}, schema=SCHEMA)
    with pytest.raises(SchemaError):
        features_schema({"text": ("int32", 3)}).validate(table)
