"""Shards against webdataset's own writer and reader: same samples, same machine, in turn; medians of several rounds.

    make bench                      # or: python -m benchmarks.tars --samples 5000 --rounds 5 --json

Ours hashes every member as it writes and checks every hash as it reads; webdataset does neither. As limits stand beside
them `tar`, which packs the same members from files, and `cp` of the whole tar: they look at no byte.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset

from mmgen.tars import TarReader, TarWriter, web_dataset


def samples(count: int) -> list[dict[str, bytes]]:
    """`count` samples of a picture's, a sound's and a caption's usual small sizes."""
    rng = np.random.default_rng(0)
    return [
        {"flac": rng.bytes(12_000), "json": b"{}", "png": rng.bytes(600), "txt": f"caption {number}".encode()}
        for number in range(count)
    ]


def write_ours(path: Path, rows: list[dict[str, bytes]]) -> None:
    """Tar and index, every member hashed, and the whole."""
    with open(path, "wb", buffering=0) as stream:
        writer = TarWriter(stream)
        for number, row in enumerate(rows):
            for suffix, each in row.items():
                writer.add(f"{number:06d}.{suffix}", each)
        index = writer.close()
    Path(f"{path}.idx").write_bytes(index.to_bytes())


def write_theirs(path: Path, rows: list[dict[str, bytes]]) -> None:
    """webdataset.TarWriter, no hashes."""
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for number, row in enumerate(rows):
            writer.write({"__key__": f"{number:06d}", **row})


def read_ours(path: Path) -> int:
    """Every sample's bytes, checked against the index."""
    with TarReader.open(path) as reader:
        return sum(len(data) for key in reader.keys() for data in reader.sample(key).values())  # noqa: SIM118


def read_theirs(path: Path) -> int:
    """Every sample's bytes through webdataset, unchecked."""
    return sum(len(row[suffix]) for row in web_dataset([path]) for suffix in ("png", "flac", "txt", "json"))


def unpack(folder: Path, rows: list[dict[str, bytes]]) -> Path:
    """The members as files, for `tar`."""
    folder.mkdir()
    for number, row in enumerate(rows):
        for suffix, each in row.items():
            (folder / f"{number:06d}.{suffix}").write_bytes(each)
    return folder


def run(*command: str) -> None:
    """Run a program to its good end."""
    subprocess.run(command, check=True)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(count: int, rounds: int) -> dict[str, float]:
    """Median seconds of each, and how many times as fast ours is, pair by pair."""
    rows = samples(count)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.tar"), Path(folder, "theirs.tar")
        files, limits = unpack(Path(folder, "files"), rows), {"tar": list[float](), "cp": list[float]()}
        packed, copied = str(Path(folder, "packed.tar")), str(Path(folder, "copied.tar"))
        pairs: dict[str, list[tuple[float, float]]] = {"write": [], "read": []}
        for _ in range(rounds):
            pairs["write"].append((timed(lambda: write_ours(ours, rows)), timed(lambda: write_theirs(theirs, rows))))
            pairs["read"].append((timed(lambda: read_ours(ours)), timed(lambda: read_theirs(theirs))))
            limits["tar"].append(timed(lambda: run("tar", "-cf", packed, "-C", str(files), ".")))
            limits["cp"].append(timed(lambda: run("cp", str(ours), copied)))
    found = {f"{name}_s": statistics.median(times) for name, times in limits.items()}
    for name, times in pairs.items():
        found[f"{name}_mmgen_s"] = statistics.median(mine for mine, _ in times)
        found[f"{name}_webdataset_s"] = statistics.median(other for _, other in times)
        found[f"{name}_ratio"] = statistics.median(other / mine for mine, other in times)
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.samples, given.rounds)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{given.samples} samples, medians of {given.rounds} rounds", file=sys.stderr)
    for name in ("write", "read"):
        mine, other, ratio = (found[f"{name}_{part}"] for part in ("mmgen_s", "webdataset_s", "ratio"))
        print(f"{name:<6} mmgen {mine:7.3f} s   webdataset {other:7.3f} s   {ratio:.1f} times as fast")
    print(f"limit  tar   {found['tar_s']:7.3f} s   cp         {found['cp_s']:7.3f} s")


if __name__ == "__main__":
    main()
