"""The data report over a stream of facts: the same page however they are batched, bounded, in flat memory."""

from __future__ import annotations

import io
import json
import multiprocessing
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import soundfile
from PIL import Image

from mmgen.config import Config, build
from mmgen.decision import Decision
from mmgen.errors import IntegrityError
from mmgen.report import data_report
from tests.fact_streams import SOURCE, Facts, Media, decided, staging

BOUND = 10 << 20


def reported(
    facts: Facts, before: Iterable[pl.DataFrame] = (), decision: Decision | None = None, media: Media | None = None
) -> tuple[bytes, dict[str, Any]]:
    decision = decision or decided(facts.rows)
    counted = data_report.count(facts.config, decision.verdicts, facts, before)
    page, twin = data_report.build(
        facts.config, decision, counted, staging(facts.rows, 512), media or Media(),
        version=2, fingerprint="a" * 64, before=None,
    )  # fmt: skip
    return page, json.loads(twin)


def test_the_page_does_not_depend_on_how_facts_are_batched() -> None:
    rows = 3_000
    pages = [
        reported(Facts(rows, batch=batch), Facts(rows // 2, batch=2_000 - batch, kept=True)) for batch in (1_300, 97)
    ]
    assert pages[0] == pages[1]
    assert pages[0] == reported(Facts(rows, batch=rows), Facts(rows // 2, batch=rows, kept=True))


def test_exact_numbers_are_those_of_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmgen.report.tally.CHUNK", 256)
    facts, decision = Facts(2_000, batch=100), decided(2_000)
    _, twin = reported(facts, decision=decision)
    judged = decision.verdicts.select("row", pl.col("split").alias("assigned"), "verdict")
    whole = pl.concat(list(facts)).join(judged, on="row").filter(pl.col("verdict") == "kept")
    for column, row in twin["distributions"].items():
        values = whole.filter(pl.col(f"{column.split('.')[0]}.present"))[column].cast(pl.Float64).to_numpy()
        if column.startswith("audio."):
            # the slot of row 2 was dropped
            values = np.delete(values, np.flatnonzero(whole.filter(pl.col("audio.present"))["row"] == 2))
        assert (row["n"], row["min"], row["max"]) == (len(values), values.min(), values.max())
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-12)
        # quantiles are those of numbers that are cut to 11 bits
        for name, share in (("p5", 0.05), ("median", 0.5), ("p95", 0.95)):
            exact = np.quantile(values, share, method="inverted_cdf")
            assert 0 <= (exact - row[name]) / (exact or 1) <= 2**-10, (column, name)
    present = whole.filter(pl.col("audio.present") & (pl.col("row") != 2))
    assert twin["presence"]["by_split"]["audio"] == dict(present["assigned"].value_counts().iter_rows())
    for label, counts in twin["labels"].items():
        assert counts == dict(whole.filter(pl.col("label") == label)["assigned"].value_counts().iter_rows())
    assert twin["labels_found"] == {"distinct": 10, "at_most": 100_000, "samples": whole.height}
    assert sum(row["inputs"] for row in twin["sources"]["parts"]) == 2_000


def test_facts_of_a_row_that_nobody_judged_are_an_error() -> None:
    with pytest.raises(IntegrityError, match="row 50 have no verdict"):
        reported(Facts(60), decision=decided(50))


def test_the_gallery_does_not_change_with_rows_that_are_not_drawn() -> None:
    facts, decision = Facts(2_000), decided(2_000)
    draw = data_report.count(facts.config, decision.verdicts, facts).draw
    kept = decision.verdicts.filter(pl.col("verdict") == "kept")
    drawn = [row["key"] for row in draw.drawn]
    assert len(drawn) == data_report.GALLERY == len(set(drawn) & set(kept["key"]))
    fewer = Facts(1_000)
    smaller = [row["key"] for row in data_report.count(fewer.config, decided(1_000).verdicts, fewer).draw.drawn]
    assert [key for key in drawn if key < "k0001000"] == [key for key in smaller if key in drawn]
    # the cluster's exemplar and its first copies, among them rows that are not kept
    assert [row["key"] for row in draw.by_row.values()] == ["k0000001", "k0000005", "k0000016", "k0000027"]


def test_a_reason_that_hits_most_of_the_data_comes_first() -> None:
    page, twin = reported(Facts(700))
    assert [(row["verdict"], row["reason"]) for row in twin["dominant"]] == [("flags", "pii_email")]
    assert page.index(b"Look at this first") < page.index(b"<h2 id=")
    decision = decided(700)
    few = replace(decision, quarantine=decision.quarantine.head(5))
    page, twin = reported(Facts(700), decision=few)
    assert twin["dominant"] == []
    assert b"Look at this first" not in page


def test_folders_are_told_apart_by_the_first_folder_of_the_key() -> None:
    verdicts = decided(100).verdicts.with_columns(
        key=pl.concat_str(pl.when(pl.col("row") < 60).then(pl.lit("cats/")).otherwise(pl.lit("dogs/")), pl.col("key"))
    )
    found = data_report.tables.sources(verdicts, [0], folders=True)
    assert [(row["source"], row["inputs"]) for row in found["parts"]] == [("cats", 60), ("dogs", 40)]
    assert found["parts"][0]["reasons"] == {"truncated": 9, "duplicate": 4}
    for row in found["parts"]:
        assert row["inputs"] == row["kept"] + row["quarantined"] + row["dropped"]


def test_drift_names_what_moved() -> None:
    facts = Facts(1_000)
    _, twin = reported(facts, [Facts(1_000, labels=5, kept=True).frame(0, 1_000)])
    shifts = {row["what"]: row for row in twin["drift"]}
    assert shifts["label"]["effect"] == pytest.approx(0.5, abs=0.02)
    assert len(shifts["label"]["moved"]) == 3
    assert shifts["label"]["shift"] == "large"
    assert shifts["image.width"]["shift"] == "none"
    gone = pl.concat(list(facts)).with_columns(split=pl.lit("train"), **{"audio.present": pl.lit(value=False)})
    _, twin = reported(facts, [gone])
    assert twin["drift"][0]["what"] == "audio.present"
    assert twin["drift"][0]["effect"] == pytest.approx(0.98, abs=0.01)


# ---------------------------------------------------------------- bounds


def test_many_labels_and_batches_leave_the_page_small() -> None:
    rows = 100_000
    facts = Facts(rows, build({"name": "tiny", "source": {**SOURCE, "image": None, "audio": None}, "slots": {
        "text": {"modality": "text"}}}), batch=2_000, labels=rows)  # fmt: skip
    decision = decided(rows)
    counted = data_report.count(facts.config, decision.verdicts, facts, Facts(rows, facts.config, labels=7, kept=True))
    page, twin = data_report.build(
        facts.config, decision, counted, staging(rows, 20), Media(), version=1, fingerprint="a" * 64, before=None
    )
    assert len(page) < 1 << 20
    assert len(twin) < 1 << 20
    numbers = json.loads(twin)
    assert numbers["labels_found"]["distinct"] == decision.counts["kept"]
    assert len(numbers["labels"]) == 50
    assert len(numbers["batches"]) <= 2_000
    assert sum(row["inputs"] for row in numbers["batches"]) == rows


def test_many_slots_long_captions_and_large_media_leave_the_page_small() -> None:
    kinds = ("text", "image", "audio")
    slots = {f"slot{at:02d}": {"modality": kinds[at % 3], "column": f"c{at}"} for at in range(50)}
    config: Config = build(
        {"name": "tiny", "source": {**SOURCE, "image": None, "audio": None, "text": None}, "slots": slots}
    )
    rng = np.random.default_rng(0)
    picture, sound = io.BytesIO(), io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (160, 160, 3), np.uint8)).save(picture, "PNG")
    soundfile.write(sound, rng.normal(0, 0.2, (96_000 * 9, 2)), 96_000, format="WAV", subtype="PCM_16")
    facts = Facts(200, config, batch=64, caption_chars=10_000)
    page, twin = reported(facts, media=Media(picture.getvalue(), sound.getvalue()))
    assert len(page) < BOUND
    assert len(json.dumps(twin)) < 1 << 20
    assert page.count(b"data:audio") > 20
    pictures = sum(map(len, re.findall(rb"data:image/[^\"]*", page)))
    assert 0 < pictures <= sum(room["picture_bytes"] for room in data_report.ROOM.values())
    assert b"left out: the page stays small" in page
    assert b"more slots" in page


def _growth(rows: int) -> float:
    """MiB by which the peak of this process grows while a report is made."""

    def status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

    decision = decided(rows)
    reported(Facts(600))
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    reported(Facts(rows), Facts(rows, kept=True), decision=decision)
    return status("VmHWM") - before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_rows() -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        few, many = pool.map(_growth, [20_000, 200_000], chunksize=1)
    assert many - few < 15
