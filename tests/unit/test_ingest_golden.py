"""What `ingest` makes of a fixed source, byte for byte. If this fails on purpose: raise STEP_VERSIONS["ingest"]."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np

from mmgen import config, staging
from mmgen.identity import STEP_VERSIONS
from mmgen.ingest import ingest
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import rejections_of

# version → digests of the staging tar, and of facts and rejections
GOLDEN = {
    # pictures measured by their luminance, and more rules: lengths that lie, pixels that are no numbers, writing
    3: [
        "7483a057b5b98cbd740df20105b2ffac4e4e443b24f80622c277d7c2163edc9d",
        "82d1618ef9d92c81f91cd2ee656eacc2cc8674a1b131f15c80a2e23adea233c7",
    ],
}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def plain_png(pixels: np.ndarray) -> bytes:
    """Uncompressed, so that no library's version is in its bytes."""
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF) + lines
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    body = chunk(b"IDAT", stored + struct.pack(">I", zlib.adler32(lines)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def plain_wav(samples: np.ndarray) -> bytes:
    data = samples.astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + \
        struct.pack("<I", len(data)) + data  # fmt: skip


def test_golden_bytes_of_ingest(tmp_path: Path) -> None:
    y, x = np.mgrid[:16, :16]
    time = np.arange(8000)
    lines = ["key,caption,image,audio,label"]
    for row in range(4):
        grey = ((x * (row + 3) * 7 + y * y) % 256).astype(np.uint8)
        pixels = np.stack([grey, grey // 2, 255 - grey], axis=2) if row == 2 else grey
        (tmp_path / f"{row}.png").write_bytes(plain_png(pixels))
        (tmp_path / f"{row}.wav").write_bytes(
            plain_wav((abs(time * (row + 1) * 97 % 4000 - 2000) * 8 - 8000) * (time % 1600 > 300))
        )
        lines.append(f"k{row},caption {row},{row}.png,{row}.wav,{row % 2}")
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "pairs.csv").write_text("\n".join([*lines, "short", "k5,,nowhere.png,,"]) + "\n")
    source = {"path": str(tmp_path / "pairs.csv"), "key": "key", "text": "caption", "image": "image", "audio": "audio"}
    store = Store(tmp_path / "store")
    made = ingest(config.build({"name": "golden", "source": {**source, "label": "label"}}), {}, Runtime(store))
    tables = [staging.read_facts(store, made).to_dicts(), [str(each) for each in rejections_of(store, made)]]
    facts = hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
    assert made.facts["reasons"] == {"file_missing": 1, "no_slots": 1, "short_row": 1, "zero_bytes": 1}
    assert [made.by_role("tar")[0].sha256, facts] == GOLDEN[STEP_VERSIONS["ingest"]]
