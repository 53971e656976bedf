"""A line up to a fusion model that knows ten colours: pictures of one colour whose caption names it. Made once per test
process by the real steps; tests take copies of its store."""

from __future__ import annotations

import functools
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmgen import steps
from mmgen.config import Config, build
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import read_table, write_table
from tests.tiny_line import TRAIN, Lines

ROWS = 200
COLOURS = {
    "black": (10, 10, 10), "white": (245, 245, 245), "red": (220, 20, 20), "green": (20, 200, 20),
    "blue": (20, 20, 230), "yellow": (230, 230, 20), "purple": (130, 10, 140), "cyan": (20, 220, 220),
    "grey": (128, 128, 128), "orange": (250, 130, 10),
}  # fmt: skip
PARTS: dict[str, Any] = {
    "slots": {
        "text": {"modality": "text", "max_tokens": 12},
        "image": {"modality": "image", "size_px": 8, "channels": 3},
    },
    "ingest": {"batch_rows": 50},
    "validate": {"near_duplicates": "keep"},
    "codecs": {
        "text": {"vocab_size": 300, "width": 16, "heads": 2, "depth": 1, "train": TRAIN},
        "image": {"widths": [8, 16], "depth": 1, "latent_width": 4, "train": TRAIN},
    },
    "judges": {"width": 8, "train": TRAIN},
    "fusion": {
        "width": 32, "augment": False, "encoders": {"image": "cnn_image", "text": "bilstm_text"},
        "train": {"steps": 60, "batch_size": 40, "learning_rate": 1e-2, "warmup_steps": 5},
    },
}  # fmt: skip
_FOLDER = tempfile.TemporaryDirectory(prefix="mmgen-colours-")


def write_source(folder: Path, rows: int = ROWS) -> Path:
    """The CSV: row n is of the colour n % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    names, records = list(COLOURS), []
    for number in range(rows):
        rng, colour = np.random.default_rng(number), names[number % len(names)]
        pixels = np.clip(np.array(COLOURS[colour]) + rng.normal(0, 6, (8, 8, 3)), 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        (folder / f"{number}.png").write_bytes(out.getvalue())
        records.append({"id": f"s{number:04d}", "caption": f"a {colour} square", "image": f"{number}.png",
                        "audio": "", "label": colour, "group": "", "split": "", "voice": "v"})  # fmt: skip
    write_table(folder / "table.csv", records)
    return folder / "table.csv"


def swap(table: Path, pairs: list[tuple[int, int]]) -> None:
    """Exchange the captions of these rows."""
    records = read_table(table)
    for one, other in pairs:
        records[one]["caption"], records[other]["caption"] = records[other]["caption"], records[one]["caption"]
    write_table(table, records)


def config_of(table: Path, **parts: Any) -> Config:
    source = {"kind": "table", "path": str(table), "key": "id", "text": "caption", "image": "image", "label": "label"}
    return build({"name": "colours", "source": source, **PARTS, **parts})


def run(config: Config, runtime: Runtime, until: str = "shard") -> dict[str, steps.Outcome]:
    names = steps.NAMES[: steps.NAMES.index(until) + 1]
    return {outcome.step: outcome for outcome in steps.run(config, runtime, names)}


@functools.cache
def _original() -> Path:
    folder = Path(_FOLDER.name)
    config = config_of(write_source(folder / "source"))
    threads = torch.get_num_threads()
    # networks this small only wait for one another's threads
    torch.set_num_threads(1)
    run(config, Runtime(Store(folder / "store"), device="cpu"), "train-fusion")
    torch.set_num_threads(threads)
    return folder


def copied(folder: Path) -> tuple[Path, Runtime, Lines]:
    """(its table, its runtime, what that says): source and store up to the fusion, of the test's own."""
    shutil.copytree(_original(), folder / "line")
    said = Lines()
    return folder / "line/source/table.csv", Runtime(Store(folder / "line/store"), device="cpu", progress=said), said
