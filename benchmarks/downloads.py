"""Pictures over HTTP into shards, against img2dataset: same table, same server, same machine, in turn.

    make bench-downloads              # or: python -m benchmarks.downloads --images 2000 --rounds 3 --json

img2dataset runs from an environment of its own (`benchmarks/peers/img2dataset.lock`, made on first use), with resizing
off, once as it comes (it decodes and encodes every picture again) and once with `disable_all_reencoding` (it neither
looks at a picture nor verifies it). Ours decodes every picture to verify it, hashes it, looks for duplicates, assigns
splits and writes the report on its way to the shards. The server keeps its pictures in memory and takes a part of the
same cores. CPU seconds are those of each contender alone, without the server; the clock's depend on what else runs.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from benchmarks.environments import PEERS, environment, timed
from mmgen import artifact, config, steps
from mmgen.runtime import Runtime
from mmgen.store import Store

WORKERS = 2


def pictures(count: int) -> list[bytes]:
    """JPEGs of a photograph's usual make: 640×480, quality 90, smooth areas and some grain; no two alike."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        grain = np.clip(np.asarray(coarse, np.int16) + rng.integers(-6, 7, (480, 640, 3)), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(grain).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


# ---------------------------------------------------------------- server


class _Serve(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; `/<n>.jpg` is picture n."""

    def __init__(self, images: list[bytes]) -> None:
        self.images, self.waiting = images, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while b"\r\n\r\n" in self.waiting:
            request, self.waiting = self.waiting.split(b"\r\n\r\n", 1)
            method, path, _ = request.split(b" ", 2)
            number = int(path.removeprefix(b"/").removesuffix(b".jpg"))
            body = self.images[number]
            head = b'HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nETag: "%d"\r\nContent-Length: %d\r\n\r\n'
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(head % (number, len(body)) + (b"" if method == b"HEAD" else body))


def _run_server(images: list[bytes], port: multiprocessing.Queue[int], stop: Event) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Serve(images), "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        while not stop.is_set():
            await asyncio.sleep(0.2)

    asyncio.run(serve())


@contextmanager
def server(images: list[bytes]) -> Iterator[str]:
    """The address of a server of these pictures, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    port: multiprocessing.Queue[int] = context.Queue()
    stop = context.Event()
    process = context.Process(target=_run_server, args=(images, port, stop))
    process.start()
    try:
        yield f"http://127.0.0.1:{port.get(timeout=30)}"
    finally:
        stop.set()
        process.join()


# ---------------------------------------------------------------- ours and theirs


def line(table: Path, address: str, folder: Path) -> int:
    """Ingest, validate, shard in this process. Returns the samples in shards."""
    settings = config.build(
        {
            "name": "pictures",
            "source": {
                "kind": "table", "path": str(table), "text": "caption", "image": "url", "allow_roots": [address],
            },
        },
        where="benchmark",
    )  # fmt: skip
    store = Store(folder)
    for _ in steps.run(settings, Runtime(store, workers=WORKERS), ("ingest", "validate", "shard")):
        pass
    made = artifact.latest(store, "dataset", "pictures")
    assert made is not None
    return int(sum(made.facts["splits"].values()))


def ours(table: Path, address: str, folder: Path) -> int:
    """`line` in a process of its own, as the peer has one: its start counts. Returns the samples in shards."""
    command = [sys.executable, "-m", "benchmarks.downloads", "--line", str(table), address, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        sys.exit(done.stderr)
    return int(done.stdout.splitlines()[-1])


def theirs(python: Path, table: Path, folder: Path, *, recode: bool) -> int:
    """img2dataset. Returns the samples in its shards."""
    command = [
        str(python.parent / "img2dataset"), f"--url_list={table}", "--input_format=parquet", "--url_col=url",
        "--caption_col=caption", "--output_format=webdataset", f"--output_folder={folder}", "--resize_mode=no",
        f"--processes_count={WORKERS}", "--thread_count=64", "--number_sample_per_shard=1000",
        f"--disable_all_reencoding={not recode}", "--enable_wandb=False",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return sum(json.loads(path.read_text())["successes"] for path in folder.glob("*_stats.json"))


def measure(work: Callable[[Path], int], wanted: int) -> dict[str, float]:
    """Wall and CPU seconds of one run into an empty folder. Exits if it lost a sample."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        with timed(found):
            samples = work(Path(folder) / "out")
        shutil.rmtree(Path(folder) / "out")
    if samples != wanted:
        sys.exit(f"wanted {wanted} samples in shards, came {samples}")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=Path, default=Path(".venv-img2dataset"), help="the peer's environment")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--line", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.line:
        print(line(Path(options.line[0]), options.line[1], Path(options.line[2])))
        return
    python = environment(options.peer, PEERS / "img2dataset.lock")
    contenders: dict[str, Callable[[Path], int]]
    with tempfile.TemporaryDirectory() as folder, server(pictures(options.images)) as address:
        table = Path(folder) / "pictures.parquet"
        numbers = range(options.images)
        pl.DataFrame(
            {"url": [f"{address}/{number}.jpg" for number in numbers], "caption": [f"picture {n}" for n in numbers]}
        ).write_parquet(table)
        contenders = {
            "mmgen": lambda out: ours(table, address, out),
            "img2dataset": lambda out: theirs(python, table, out, recode=True),
            "img2dataset, nothing decoded": lambda out: theirs(python, table, out, recode=False),
        }
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, work in contenders.items():
                taken[name].append(measure(work, options.images))
    found = {
        name: {key: statistics.median(each[key] for each in rounds) for key in ("wall_s", "cpu_s")}
        for name, rounds in taken.items()
    }
    faster = {
        name: {key: found[name][key] / found["mmgen"][key] for key in found[name]} for name in found if name != "mmgen"
    }
    if options.json:
        print(json.dumps({"images": options.images, "rounds": options.rounds, "seconds": found, "faster": faster}))
        return
    for name, each in found.items():
        ratios = "".join(f"{each[key] / found['mmgen'][key]:8.2f}×" for key in each)
        print(f"{name:30} {each['wall_s']:8.2f} s {each['cpu_s']:8.2f} CPU s {ratios}")


if __name__ == "__main__":
    main()
