"""The data line over rows: time and memory of a first run, a rerun without change, and one with 1% new rows.

    make bench-scale                  # or: python -m benchmarks.scale --rows 20000 --rows 200000 --json
    make bench-scale ARGS="--media photo --rows 1000 --rounds 5"

The source is a table of JPEGs, WAVs and captions on the local disk, all different. Each measurement is a process of its
own: its peak memory is that of its largest process, workers included. In turn with the first runs goes pure decoding
(`benchmarks/decoding.py`), by the quickest decoder there is in an environment of its own, and by Pillow: shares are
medians over the rounds, of CPU seconds (starts of ours included) and of wall seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from benchmarks.environments import PEERS, cpu_seconds, environment
from mmgen import config, steps
from mmgen.runtime import Runtime
from mmgen.store import Store

WORKERS = 2
STEPS = ("ingest", "validate", "shard")
#: freed pages stay with the process, as in ours: the decoders' own figure is better for it
KEEP_PAGES = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}


@dataclass(frozen=True)
class Media:
    """A picture of `coarse` random cells with grain of so many levels, and a sound of notes with as much noise."""

    width: int
    height: int
    coarse: tuple[int, int]
    grain: int
    quality: int
    rate_hz: int
    seconds: float


MEDIA = {
    "small": Media(64, 64, (8, 8), 0, 85, 8_000, 0.5),
    "photo": Media(640, 480, (12, 16), 6, 90, 16_000, 3.0),
}


def write_files(folder: str, numbers: Iterable[int], media: Media) -> None:
    """A JPEG and a WAV for each number."""
    for number in numbers:
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (*media.coarse, 3), dtype=np.uint8))
        picture = coarse.resize((media.width, media.height), Image.Resampling.BICUBIC)
        if media.grain:
            grain = rng.integers(-media.grain, media.grain + 1, (media.height, media.width, 3))
            picture = Image.fromarray(np.clip(np.asarray(picture, np.int16) + grain, 0, 255).astype(np.uint8))
        picture.save(f"{folder}/{number}.jpg", quality=media.quality)
        length = int(media.rate_hz * media.seconds)
        notes = rng.uniform(100, 2_000, 5)[np.arange(length) * 5 // length]
        wave = 0.4 * np.sin(2 * np.pi * np.cumsum(notes) / media.rate_hz) + rng.normal(0, media.grain / 600, length)
        soundfile.write(f"{folder}/{number}.wav", wave, media.rate_hz, subtype="PCM_16")


def write_table(folder: Path, rows: int) -> None:
    """The table of the first `rows` files."""
    lines = (
        f'k{number:07d},"a sample, number {number}",{number}.jpg,{number}.wav,{number % 10}\n' for number in range(rows)
    )
    with (folder / "table.csv").open("w", encoding="utf-8") as stream:
        stream.write("key,caption,image,audio,label\n")
        stream.writelines(lines)


def make_source(folder: Path, rows: int, media: Media) -> None:
    """Files for `rows` and 1% more, and the table of the first."""
    total = rows + rows // 100
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.starmap(write_files, [(str(folder), range(start, total, 64), media) for start in range(64)])
    write_table(folder, rows)


def decoding(python: Path, decoder: str, folder: Path, rows: int) -> dict[str, float]:
    """Wall and CPU seconds of reading, hashing and decoding the files of all rows."""
    script = Path(__file__).with_name("decoding.py")
    command = [str(python), str(script), str(folder), str(rows), "--decoder", decoder, "--workers", str(WORKERS)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | KEEP_PAGES)
    found: dict[str, float] = json.loads(said.stdout)
    return found


def line(folder: Path) -> dict[str, float]:
    """Run ingest, validate and shard in this process; wall and CPU seconds of each, and the peak memory in MiB."""
    source = {"kind": "table", "path": str(folder / "source" / "table.csv"), "key": "key", "text": "caption",
              "image": "image", "audio": "audio", "label": "label"}  # fmt: skip
    settings = config.build({"name": "scale", "source": source})
    found: dict[str, float] = {}
    started, cpu_before = time.perf_counter(), cpu_seconds()
    shards, cpu = 0, cpu_before
    for outcome in steps.run(settings, Runtime(Store(folder / "store"), workers=WORKERS), STEPS):
        found |= {f"{outcome.step}_s": outcome.seconds, f"{outcome.step}_cpu_s": cpu_seconds() - cpu}
        cpu = cpu_seconds()
        shards = len(outcome.artifact.by_role("shard"))
    found |= {"total_s": time.perf_counter() - started, "total_cpu_s": cpu - cpu_before}
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


def measure(rows: int, media: Media, rounds: int, peer: Path) -> dict[str, float]:
    """The figures of one size."""
    pythons = {"simplejpeg": environment(peer, PEERS / "decoders.lock"), "pillow": Path(sys.executable)}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in (*pythons, "first")}
    with tempfile.TemporaryDirectory(prefix="mmgen-scale-") as name:
        folder = Path(name)
        (folder / "source").mkdir()
        make_source(folder / "source", rows, media)
        for _ in range(rounds):
            shutil.rmtree(folder / "store", ignore_errors=True)
            for decoder, python in pythons.items():
                taken[decoder].append(decoding(python, decoder, folder / "source", rows))
            taken["first"].append(measured(folder))
        again = measured(folder)
        write_table(folder / "source", rows + rows // 100)
        grown = measured(folder)
        shutil.rmtree(folder / "store")
    middle = {name: _medians(each) for name, each in taken.items()}
    first = middle["first"]
    shares = {
        f"{what}_share_of_{decoder}{cpu}": middle[decoder][f"{cpu.strip('_') or 'wall'}_s"] / first[f"{what}{cpu}_s"]
        for what in ("ingest", "total") for decoder in pythons for cpu in ("_cpu", "")
    }  # fmt: skip
    return {
        "rows": rows,
        **{f"{decoder}_{key}": value for decoder in pythons for key, value in middle[decoder].items()},
        **{f"first_{key}": value for key, value in first.items()},
        **shares,
        "again_total_s": again["total_s"],
        # a look at the state of every file of the source, and of every file of the version
        "again_us_per_source_file": 1e6 * again["ingest_s"] / (2 * rows),
        "again_ms_per_shard": 1000 * (again["validate_s"] + again["shard_s"]) / first["shards"],
        "grown_total_s": grown["total_s"],
        "grown_share": grown["total_s"] / first["total_s"],
        "grown_peak_mib": grown["peak_mib"],
    }


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def main() -> None:
    """Print a column per size, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, action="append", help="Rows of the source; may be given several times.")
    parser.add_argument(
        "--media", choices=MEDIA, default="small", help="small: 64 px and 0.5 s; photo: 640×480 and 3 s"
    )
    parser.add_argument("--rounds", type=int, default=1, help="First runs, in turn with pure decoding.")
    parser.add_argument("--peer", type=Path, default=Path(".venv-decoders"), help="the decoder's environment")
    parser.add_argument("--line", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.line:
        print(json.dumps(line(given.line)))
        return
    found = [measure(rows, MEDIA[given.media], given.rounds, given.peer) for rows in given.rows or [5_000, 20_000]]
    if given.json:
        print(json.dumps(found))
        return
    for key in found[0]:
        print(f"{key:<34}" + "".join(f"{each[key]:>14,.2f}" for each in found))


if __name__ == "__main__":
    main()
