"""Pure decoding: read every JPEG and WAV of a folder, hash it once, decode it; the least that any ingest does.

    python benchmarks/decoding.py FOLDER ROWS --decoder simplejpeg --workers 2

Stands alone, so that the Python of another environment can run it. Start of the workers is not counted. CPU seconds are
those of the workers; wall seconds depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import soundfile


def _pillow(data: bytes) -> object:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.load()


def _simplejpeg(data: bytes) -> object:
    import simplejpeg  # type: ignore[import-not-found, unused-ignore]

    return simplejpeg.decode_jpeg(data)


DECODERS: dict[str, Callable[[bytes], object]] = {"pillow": _pillow, "simplejpeg": _simplejpeg}


def decode_all(folder: str, numbers: range, decoder: str) -> float:
    """Read, hash and decode the files of each number. Returns the CPU seconds."""
    decode, started = DECODERS[decoder], time.process_time()
    for number in numbers:
        picture = Path(folder, f"{number}.jpg").read_bytes()
        hashlib.sha256(picture).digest()
        decode(picture)
        sound = Path(folder, f"{number}.wav").read_bytes()
        hashlib.sha256(sound).digest()
        # libsndfile takes three times as long to make floats of them
        soundfile.read(io.BytesIO(sound), dtype="int16")
    return time.process_time() - started


def main() -> None:
    """Print {"wall_s", "cpu_s"} as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder")
    parser.add_argument("rows", type=int)
    parser.add_argument("--decoder", choices=DECODERS, default="pillow")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        pool.starmap(decode_all, [(given.folder, range(1), given.decoder)] * given.workers)
        started = time.perf_counter()
        parts = [(given.folder, range(start, given.rows, 32), given.decoder) for start in range(32)]
        cpu = sum(pool.starmap(decode_all, parts))
        print(json.dumps({"wall_s": time.perf_counter() - started, "cpu_s": cpu}))


if __name__ == "__main__":
    main()
