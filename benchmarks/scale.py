"""The data line over rows: time and memory of a first run, a rerun without change, and one with 1% new rows.

    make bench-scale                  # or: python -m benchmarks.scale --rows 20000 --rows 200000 --json

The source is a table of small JPEGs, WAVs and captions on the local disk, all different. Each measurement is a process
of its own: its peak memory is that of its largest process, workers included. Beside the first run stands what any
ingest has to do at least: read every file, decode it with Pillow or libsndfile, and hash it, on the same cores.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from mmgen import config, steps
from mmgen.runtime import Runtime
from mmgen.store import Store

WORKERS = 2
STEPS = ("ingest", "validate", "shard")
SIDE_PX, RATE_HZ, SECONDS = 64, 8_000, 0.5


def write_files(folder: str, numbers: Iterable[int]) -> None:
    """A JPEG of noise over a gradient and a WAV of notes for each number."""
    for number in numbers:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(f"{folder}/{number}.jpg", quality=85)
        notes = rng.uniform(100, 2_000, 5)[np.arange(int(RATE_HZ * SECONDS)) * 5 // int(RATE_HZ * SECONDS)]
        wave = 0.4 * np.sin(2 * np.pi * np.cumsum(notes) / RATE_HZ)
        soundfile.write(f"{folder}/{number}.wav", wave, RATE_HZ, subtype="PCM_16")


def write_table(folder: Path, rows: int) -> None:
    """The table of the first `rows` files."""
    lines = (
        f'k{number:07d},"a sample, number {number}",{number}.jpg,{number}.wav,{number % 10}\n' for number in range(rows)
    )
    with (folder / "table.csv").open("w", encoding="utf-8") as stream:
        stream.write("key,caption,image,audio,label\n")
        stream.writelines(lines)


def make_source(folder: Path, rows: int) -> None:
    """Files for `rows` and 1% more, and the table of the first."""
    total = rows + rows // 100
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.starmap(write_files, [(str(folder), range(start, total, 64)) for start in range(64)])
    write_table(folder, rows)


def decode_all(folder: str, numbers: Iterable[int]) -> int:
    """Read, hash and decode the files of each number: the least that an ingest does."""
    total = 0
    for number in numbers:
        for suffix in ("jpg", "wav"):
            data = Path(folder, f"{number}.{suffix}").read_bytes()
            hashlib.sha256(data).digest()
            if suffix == "jpg":
                with Image.open(io.BytesIO(data)) as image:
                    image.load()
                    total += image.width
            else:
                total += len(soundfile.read(io.BytesIO(data), dtype="float32")[0])
    return total


def decoding_seconds(folder: Path, rows: int) -> float:
    """Seconds of `decode_all` over all rows in WORKERS processes that are up already."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.starmap(decode_all, [(str(folder), range(1))] * WORKERS)
        started = time.perf_counter()
        pool.starmap(decode_all, [(str(folder), range(start, rows, 32)) for start in range(32)])
        return time.perf_counter() - started


def line(folder: Path) -> dict[str, float]:
    """Run ingest, validate and shard in this process; seconds of each, and the peak memory in MiB."""
    source = {"kind": "table", "path": str(folder / "source" / "table.csv"), "key": "key", "text": "caption",
              "image": "image", "audio": "audio", "label": "label"}  # fmt: skip
    settings = config.build({"name": "scale", "source": source})
    found: dict[str, float] = {}
    started = time.perf_counter()
    shards = 0
    for outcome in steps.run(settings, Runtime(Store(folder / "store"), workers=WORKERS), STEPS):
        found[f"{outcome.step}_s"] = outcome.seconds
        shards = len(outcome.artifact.by_role("shard"))
    found["total_s"] = time.perf_counter() - started
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return found | {"peak_mib": largest / 1024, "shards": shards}


def measured(folder: Path) -> dict[str, float]:
    """`line` in a process of its own."""
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--line", str(folder)],
        check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found: dict[str, float] = json.loads(said.stdout.splitlines()[-1])
    return found


def measure(rows: int) -> dict[str, float]:
    """The figures of one size."""
    with tempfile.TemporaryDirectory(prefix="mmgen-scale-") as name:
        folder = Path(name)
        (folder / "source").mkdir()
        make_source(folder / "source", rows)
        decoding = decoding_seconds(folder / "source", rows)
        first, again = measured(folder), measured(folder)
        write_table(folder / "source", rows + rows // 100)
        grown = measured(folder)
        shutil.rmtree(folder / "store")
    return {
        "rows": rows,
        "decoding_s": decoding,
        **{f"first_{key}": value for key, value in first.items()},
        "ingest_share_of_decoding": decoding / first["ingest_s"],
        "again_total_s": again["total_s"],
        "again_ms_per_shard": 1000 * again["total_s"] / first["shards"],
        "grown_total_s": grown["total_s"],
        "grown_share": grown["total_s"] / first["total_s"],
        "grown_peak_mib": grown["peak_mib"],
    }


def main() -> None:
    """Print a column per size, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, action="append", help="Rows of the source; may be given several times.")
    parser.add_argument("--line", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.line:
        print(json.dumps(line(given.line)))
        return
    found = [measure(rows) for rows in given.rows or [5_000, 20_000]]
    if given.json:
        print(json.dumps(found))
        return
    for key in found[0]:
        print(f"{key:<26}" + "".join(f"{each[key]:>14,.2f}" for each in found))


if __name__ == "__main__":
    main()
