"""Laws of the data line: the same bytes at any number of workers, and golden bytes per step version (laws 3 and 5)."""

from __future__ import annotations

import csv
import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmgen.artifact import Artifact, canonical_json
from mmgen.config import Config
from mmgen.identity import STEP_VERSIONS
from mmgen.ingest import ingest
from mmgen.runtime import Runtime
from mmgen.shards import shard
from mmgen.store import Store
from mmgen.validate import validate
from tests.data_sources import COLUMNS, table_config, write_source

#: by the step's version in mmgen/identity.py. Other bytes than these need a higher version, and a new line here.
GOLDEN_VERDICTS = {
    1: "c5cbbd3cbf54b9041c5e48ee0656405a347c5648a7315e397909aa0e7efbde60",
    # the verdicts are the same where no exemplar is dropped as a bridge; the report's quantiles are of cut numbers
    2: "c5cbbd3cbf54b9041c5e48ee0656405a347c5648a7315e397909aa0e7efbde60",
}
GOLDEN_SHARDS = {2: "744470e611d274414970940aca9aa5a38d7ff22cc1c7975d26b5b9a54869d5ad"}


def run(config: Config, runtime: Runtime) -> tuple[Artifact, Artifact]:
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    return verdicts, shard(config, {"staging": staging, "verdicts": verdicts}, runtime)


def plain_png(seed: int, side: int = 12) -> bytes:
    """A PNG that no encoder's version can change: rows of raw bytes, stored."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    stored = (
        b"\x78\x01\x01" + struct.pack("<HH", len(raw), 0xFFFF ^ len(raw)) + raw + struct.pack(">I", zlib.adler32(raw))
    )

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", stored) + chunk(b"IEND", b"")


def plain_wav(seed: int, frames: int = 1_600, rate_hz: int = 16_000) -> bytes:
    data = np.random.default_rng(seed).integers(-9_000, 9_000, frames, np.int16).astype("<i2").tobytes()
    head = (
        b"fmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
        + b"data"
        + struct.pack("<I", len(data))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(data)) + b"WAVE" + head + data


def fixed_source(folder: Path) -> Path:
    """24 rows whose every byte is fixed: a missing slot, a copy, a group, a bad file, an odd key."""
    folder.mkdir(parents=True)
    rows = []
    for at in range(24):
        (folder / f"{at}.png").write_bytes(plain_png(at))
        (folder / f"{at}.wav").write_bytes(plain_wav(at))
        group = "pair" if at in (3, 4) else ""
        rows.append([f"k{at}", f"number {at}", f"{at}.png", f"{at}.wav", str(at % 3), group, "", f"v{at % 4}"])
    rows[5][3] = ""
    rows[6][1:4] = rows[7][1:4]
    rows[8][0] = "odd key/8.é"
    (folder / "9.png").write_bytes(b"no picture")
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    return folder / "table.csv"


@pytest.fixture
def golden(tmp_path: Path, runtime: Runtime) -> tuple[Artifact, Artifact]:
    source = fixed_source(tmp_path / "source")
    return run(table_config(source, source={"group": "group"}, shard={"max_samples": 6}), runtime)


def test_verdicts_are_golden_for_their_version(golden: tuple[Artifact, Artifact], runtime: Runtime) -> None:
    table = pl.read_parquet(io.BytesIO(runtime.store.read(golden[0].file("verdicts").path)))
    assert table.height == 24
    found = hashlib.sha256(canonical_json(table.drop("similarity").to_dicts())).hexdigest()
    assert found == GOLDEN_VERDICTS[STEP_VERSIONS["validate"]], "other verdicts: raise the version of validate"


def test_shards_are_golden_for_their_version(golden: tuple[Artifact, Artifact]) -> None:
    found = hashlib.sha256(canonical_json([entry.sha256 for entry in golden[1].by_role("shard")])).hexdigest()
    assert found == GOLDEN_SHARDS[STEP_VERSIONS["shard"]], "other bytes: raise the version of shard"


def everything(store: Store) -> dict[str, str]:
    """Digests of all that is committed and is identity: manifests hold circumstance."""
    manifests = ("manifest.json", "verdicts.json")
    return {
        path: hashlib.sha256(store.read(path)).hexdigest()
        for path in store.walk("datasets")
        if not path.endswith(manifests)
    }


def test_the_same_bytes_at_any_number_of_workers(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", 40)
    config = table_config(source, shard={"max_samples": 9}, ingest={"batch_rows": 13})
    stores = [Store(tmp_path / "one"), Store(tmp_path / "two")]
    made = [
        run(config, Runtime(store, workers=workers, few_rows={})) for store, workers in zip(stores, (1, 2), strict=True)
    ]
    assert everything(stores[0]) == everything(stores[1])
    assert [artifact.fingerprint for artifact in made[0]] == [artifact.fingerprint for artifact in made[1]]


def test_where_the_source_lies_does_not_enter(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "a" / "store"), Store(tmp_path / "b" / "store")]
    for store, name in zip(stores, ("a", "b"), strict=True):
        run(table_config(write_source(tmp_path / name / f"source-{name}", 20)), Runtime(store))
    shards = [{path for path in store.walk("datasets") if "/shards/" in path} for store in stores]
    assert shards[0] == shards[1]
    assert everything(stores[0]) == everything(stores[1])
