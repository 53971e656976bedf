"""The committed results of benchmarks."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmarks.kept import Kept, whole


def test_a_cell_that_has_rows_is_known_by_its_columns_alone(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "below" / "kept.parquet", ("kind", "seed"))
    assert kept.table() is None
    assert not kept.has({"kind": "a", "seed": 0})
    kept.add(pl.DataFrame({"kind": ["a", "a"], "seed": [0, 0], "value": [1.0, 2.0]}))
    kept.add(pl.DataFrame({"kind": ["b"], "seed": [1], "value": [3.0]}))
    assert kept.has({"kind": "a", "seed": 0, "value": 9.0})
    assert kept.has({"kind": "b", "seed": 1})
    assert not kept.has({"kind": "a", "seed": 1})
    found = kept.table()
    assert found is not None
    assert found["value"].to_list() == [1.0, 2.0, 3.0]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    whole(path, lambda partial: partial.write_text("before"))

    def broken(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        whole(path, broken)
    assert path.read_text() == "before"
