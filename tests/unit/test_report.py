"""The data report: one bounded page that stands alone, escapes everything, and says what its JSON twin says."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmgen.artifact import Artifact
from mmgen.errors import GateError
from mmgen.ingest import ingest
from mmgen.modalities.config import AudioSlot, ImageSlot, TextSlot
from mmgen.report import page, plots, tables
from mmgen.report.sketches import Sketch
from mmgen.runtime import Runtime
from mmgen.shards import shard
from mmgen.validate import validate
from tests.data_sources import Change, picture, sound, table_config, write_source

HOSTILE = "<script>alert('x')</script> & \"q\" $\\frac{1}{2}$ 数字"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Balance(HTMLParser):
    """Elements that are open at the end, elements seen, and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def made(folder: Path, runtime: Runtime, change: Change | None = None, *, rows: int = 30, **parts: Any) -> Artifact:
    config = table_config(write_source(folder / "source", rows, change), **parts)
    return validate(config, {"staging": ingest(config, {}, runtime)}, runtime)


def report(runtime: Runtime, verdicts: Artifact) -> tuple[str, dict[str, Any]]:
    text = runtime.store.read(verdicts.file("report").path).decode()
    return text, json.loads(runtime.store.read(verdicts.file("report-json").path))


def hostile(records: list[dict[str, str]], folder: Path) -> None:
    for at in range(10):
        records[at] |= {"caption": HOSTILE, "label": HOSTILE, "id": f"{HOSTILE}{at}", "voice": HOSTILE}
    records[11] |= {"image": "<b>none</b>.png"}
    records[12] |= {"image": records[0]["image"], "audio": records[0]["audio"]}


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(tmp_path: Path, runtime: Runtime) -> None:
    text, _ = report(runtime, made(tmp_path, runtime, hostile))
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert {"img", "audio", "svg", "table"} <= parser.seen
    assert all(each.startswith("data:") for each in parser.loads)
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>|<metadata>.*?</metadata>', "", text, flags=re.S)


def test_hostile_text_is_escaped_everywhere(tmp_path: Path, runtime: Runtime) -> None:
    text, _ = report(runtime, made(tmp_path, runtime, hostile))
    parser = Balance()
    parser.feed(text)
    assert "script" not in parser.seen
    assert "&lt;script&gt;" in text
    assert "<b>none" not in text


def test_the_same_inputs_give_the_same_page(tmp_path: Path, runtime: Runtime, store: Any) -> None:
    one = report(runtime, made(tmp_path, runtime))
    two = report(runtime, made(tmp_path, Runtime(store, rebuild=True)))
    assert one[0].replace("version 1", "version 2").replace("dataset:tiny@1", "dataset:tiny@2") == two[0]


def test_the_page_stays_bounded_whatever_the_media_are(tmp_path: Path, runtime: Runtime) -> None:
    def change(records: list[dict[str, str]], folder: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)
        for at in range(6):
            noise[at] = at
            Image.fromarray(noise).save(folder / f"{at}.png", compress_level=1)
            (folder / f"{at}.wav").write_bytes(sound(at, 40.0))
        for record in records:
            record["caption"] = "long " * 1_500

    text, _ = report(runtime, made(tmp_path, runtime, change, rows=12))
    assert len(text) < 8_000_000


def test_a_page_without_labels_pictures_or_sound_renders(tmp_path: Path, runtime: Runtime) -> None:
    text, twin = report(runtime, made(tmp_path, runtime, source={"image": None, "audio": None, "label": None}))
    assert "have no labels" in text
    assert twin["labels"] == {}
    assert twin["presence"]["patterns"] == [{"slots": ["text"], "rows": 30}]


def test_a_failed_gate_says_why_at_the_top(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(GateError) as failure:
        made(tmp_path, runtime, lambda records, _: [record.update(image="no") for record in records], rows=12)
    where = str(failure.value).rsplit("see ", 1)[1]
    text = Path(where).read_text(encoding="utf-8")
    assert "gate failed" in text
    assert "kept 0 of 12 inputs" in text


def test_drift_is_measured_against_the_previous_version(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 30))
    staging = ingest(config, {}, runtime)
    shard(config, {"staging": staging, "verdicts": validate(config, {"staging": staging}, runtime)}, runtime)

    def change(records: list[dict[str, str]], folder: Path) -> None:
        for at in range(20, 30):
            (folder / f"{at}.png").write_bytes(picture(at, 64))

    text, twin = report(runtime, made(tmp_path, runtime, change))
    assert twin["previous"] == "dataset:tiny@1"
    assert twin["changes"] == {"new": 0, "unchanged": 20, "changed": 10, "removed": 0}
    shifts = {row["what"]: row for row in twin["drift"]}
    assert shifts["image.width"]["effect"] == pytest.approx(1 / 3)
    assert shifts["image.width"]["shift"] == "large"
    assert shifts["audio.seconds"]["shift"] == "none"
    assert "dataset:tiny@1" in text


def test_batches_add_up_to_the_inputs(tmp_path: Path, runtime: Runtime) -> None:
    _, twin = report(runtime, made(tmp_path, runtime, hostile, ingest={"batch_rows": 8}))
    assert [row["inputs"] for row in twin["batches"]] == [8, 8, 8, 6]
    for row in twin["batches"]:
        assert row["inputs"] == row["kept"] + row["quarantined"] + row["dropped"]
    for name in ("inputs", "kept", "quarantined", "dropped"):
        assert sum(row[name] for row in twin["batches"]) == twin["counts"][name]


# ---------------------------------------------------------------- numbers


def test_preprocessing_counts_what_each_slot_would_go_through() -> None:
    kept = pl.DataFrame({
        "image.present": [True, True, True, False], "image.width": [28, 64, 64, None],
        "image.height": [28, 64, 32, None], "image.mode": ["L", "RGB", "RGB", None],
        "audio.present": [True] * 4, "audio.seconds": [0.5, 1.0, 2.0, 3.0],
        "audio.rate_hz": [16_000, 8_000, 16_000, 44_100], "audio.channels": [1, 1, 2, 1],
        "text.present": [True] * 4, "text.words": [3, 9, 2, 1], "text.bytes": [12, 40, 9, 4],
    })  # fmt: skip
    done = tables.Preprocessing({"image": ImageSlot(), "audio": AudioSlot(), "text": TextSlot(max_tokens=10)})
    for part in kept.iter_slices(3):
        done.add(part)
    found = {(slot, row["what"]): (row["rows"], row["of"]) for slot, rows in done.table().items() for row in rows}
    assert found == {
        ("image", "enlarged to 32 px"): (1, 3),
        ("image", "reduced to 32 px"): (1, 3),
        ("image", "converted to RGB"): (1, 3),
        ("image", "cropped to a square (centre)"): (1, 3),
        ("audio", "resampled to 16000 Hz"): (2, 4),
        ("audio", "mixed down to one channel"): (1, 4),
        ("audio", "cropped to 1 s (start)"): (2, 4),
        ("audio", "padded to 1 s"): (1, 4),
        ("text", "surely truncated to 10 tokens"): (1, 4),
        ("text", "possibly truncated to 10 tokens"): (3, 4),
    }


def test_numbers_for_people() -> None:
    assert [page.number(each) for each in (None, 3, 1_234_567, 0.000123456, 2.0)] == [
        "–",
        "3",
        "1,234,567",
        "0.0001235",
        "2",
    ]
    assert page.share(1, 0) == "–"
    assert page.size(5 << 20) == "5.0 MiB"


def test_pictures_are_shrunk_and_unreadable_ones_are_none() -> None:
    assert page.picture(b"junk") is None
    assert page.clip(b"junk") is None
    wide = np.zeros((50, 4_000), np.uint8)
    uri = page.picture(wide)
    assert uri is not None
    assert len(uri) < 2_000


def test_plots_are_the_same_bytes_and_take_any_label() -> None:
    series = {"train": {HOSTILE: 3.0, "_b": 1.0}, "test": {HOSTILE: 1.0}}
    one, two = plots.bars(series), plots.bars(series)
    assert one == two
    assert "<script" not in one
    assert plots.histogram({"empty": Sketch(), "one": Sketch.of([2.0])}, "x").startswith("<svg")
    assert plots.lines({"a": ([1, 2], [3, 4])}, "x", "y").startswith("<svg")


def test_pictures_of_every_mode_can_be_shown() -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        out = io.BytesIO()
        Image.new(mode, (8, 8)).save(out, "TIFF" if mode == "CMYK" else "PNG")
        assert page.picture(out.getvalue()) is not None, mode
