"""Small sources for tests of the data steps: a CSV with pictures, sounds and texts, made from seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image, ImageDraw

from mmgen.artifact import Artifact
from mmgen.config import Config, build
from mmgen.records import Rejection
from mmgen.staging import each_batch
from mmgen.store import Store

COLUMNS = ("id", "caption", "image", "audio", "label", "group", "split", "voice")
Change = Callable[[list[dict[str, str]], Path], None]


def picture(seed: int, side: int = 28) -> bytes:
    """A PNG: a few grey strokes, other ones for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (side, side), int(rng.integers(0, 60)))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        draw.line([tuple(point) for point in rng.integers(0, side, (3, 2)).tolist()], int(rng.integers(120, 255)), 3)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def sound(seed: int, seconds: float = 0.4, rate_hz: int = 16_000) -> bytes:
    """A WAV: three notes in a row, other ones for each seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    notes = rng.uniform(150, 3_000, 6)[np.minimum(5, (time / seconds * 6).astype(int))]
    wave = 0.4 * np.sin(2 * np.pi * np.cumsum(notes) / rate_hz)
    out = io.BytesIO()
    soundfile.write(out, wave.astype(np.float32), rate_hz, format="WAV", subtype="PCM_16")
    return out.getvalue()


def write_source(folder: Path, rows: int, change: Change | None = None) -> Path:
    """A table of `rows` samples in `folder`; `change` edits its records before they are written. Returns the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(rows):
        (folder / f"{number}.png").write_bytes(picture(number))
        (folder / f"{number}.wav").write_bytes(sound(number))
        records.append({
            "id": f"s{number:04d}", "caption": f"sample {number} of class {number % 5}", "image": f"{number}.png",
            "audio": f"{number}.wav", "label": str(number % 5), "group": "", "split": "", "voice": f"v{number % 7}",
        })  # fmt: skip
    if change:
        change(records, folder)
    write_table(folder / "table.csv", records)
    return folder / "table.csv"


def write_table(path: Path, records: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(records)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def table_config(path: Path, *, source: Mapping[str, Any] | None = None, **parts: Any) -> Config:
    """The configuration of such a table. parts: other parts of the configuration ({"validate": …})."""
    columns = {"kind": "table", "path": str(path), "key": "id", "text": "caption", "image": "image", "audio": "audio",
               "label": "label", "meta": ["voice"], **(source or {})}  # fmt: skip
    return build({"name": "tiny", "source": columns, **parts})


def rejections_of(store: Store, staging: Artifact) -> list[Rejection]:
    """What ingest found wrong, in row order."""
    return [Rejection(**row) for _, found in each_batch(store, staging) for row in found.iter_rows(named=True)]
