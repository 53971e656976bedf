"""What the gate of `validate` says no to, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mmgen import artifact, steps
from mmgen.artifact import Artifact
from mmgen.errors import ConfigError, GateError
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.tables import read_parquet
from tests.data_sources import Change, picture, table_config, write_source

ROWS = 40


def judged(folder: Path, change: Change | None = None, rows: int = ROWS, **gate: object) -> Artifact:
    config = table_config(write_source(folder / "source", rows, change), validate={"gate": gate})
    return list(steps.run(config, Runtime(Store(folder / "store")), ("ingest", "validate", "shard")))[-2].artifact


def lose_pictures(count: int) -> Change:
    def change(records: list[dict[str, str]], _: Path) -> None:
        for record in records[:count]:
            record["image"] = "nowhere.png"

    return change


def test_a_reason_that_hits_too_many_inputs_stops_the_line(tmp_path: Path) -> None:
    assert judged(tmp_path, lose_pictures(4), max_share={"file_missing": 0.1}).passed
    with pytest.raises(GateError, match=r"'file_missing' hits 5 of 40 inputs \(12.5%\), wanted at most 10.0%"):
        judged(tmp_path, lose_pictures(5), max_share={"file_missing": 0.1})
    with pytest.raises(ConfigError, match=r"did you mean 'file_missing'"):
        judged(tmp_path, max_share={"file_mising": 0.1})


def test_dropped_and_flagged_rows_count_for_their_reason(tmp_path: Path) -> None:
    def twice(records: list[dict[str, str]], _: Path) -> None:
        for record in records[20:23]:
            record |= {name: records[0][name] for name in ("caption", "image", "audio")}

    assert judged(tmp_path, twice, max_share={"duplicate": 0.1}).passed
    with pytest.raises(GateError, match=r"'duplicate' hits 3 of 40"):
        judged(tmp_path, twice, max_share={"duplicate": 0.05})


def brighter(records: list[dict[str, str]], folder: Path) -> None:
    """Other pictures, with longer sides, under the same names."""
    for number, record in enumerate(records):
        (folder / record["image"]).write_bytes(picture(number, 40))


def test_drift_beyond_the_gate_stops_the_line_and_the_version_stays_to_look_at(tmp_path: Path) -> None:
    assert judged(tmp_path, max_drift=0.5).passed, "without a base there is no drift"
    with pytest.raises(GateError, match=r"image\.(height|width) has shifted by 1\.000 .*max_drift"):
        judged(tmp_path, brighter, max_drift=0.5)
    store = Store(tmp_path / "store")
    assert [each.passed for each in artifact.history(store, "verdicts", "tiny")] == [False, True]
    assert store.exists("datasets/tiny/versions/2/report.html")
    latest = artifact.latest(store, "dataset", "tiny", passed=True)
    assert latest is not None
    assert latest.version == 1
    assert judged(tmp_path, brighter, max_drift=1.0).passed
    # the same again against itself
    assert judged(tmp_path, brighter, rows=ROWS + 1, max_drift=0.2).passed


def test_keys_that_differ_in_case_or_composition_are_flagged_and_kept(tmp_path: Path) -> None:
    def rename(records: list[dict[str, str]], _: Path) -> None:
        for record, key in zip(records, ("Key", "key", "caf\u00e9", "cafe\u0301", "other"), strict=False):
            record["id"] = key

    made = judged(tmp_path, rename)
    store = Store(tmp_path / "store")
    table = read_parquet(store, made.file("quarantine").path).filter(pl.col("reason") == "key_clash")
    assert table.select("row", "key", "severity").rows() == [(1, "key", "flag"), (3, "cafe\u0301", "flag")]
    assert made.facts["counts"]["kept"] == ROWS
