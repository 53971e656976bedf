"""Runs the data line where there is too little room for it, or no right to it, and then where there is enough.

`python -m tests.faults.rooms SCENE FOLDER [SIZE…]` prints one JSON object: what each try said, and what went wrong.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmgen import forgotten
from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.children import FORGET, broken, contents, differing, half_written, in_child, read_all, run_until

ROWS = 24
BLOCK = 4096


def small_files(size: int, _store: Path) -> Callable[[], None]:
    """No file may grow beyond `size` bytes. What it gives is called when the limit goes."""
    # Python ignores the signal that comes with it, so a write fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def small_disk(size: int, store: Path) -> Callable[[], None]:
    """So many bytes are free on the (small) file system of `store`."""
    ballast = store.parent / "ballast"
    free = os.statvfs(store.parent).f_bavail * os.statvfs(store.parent).f_frsize
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(BLOCK, free - size))
    return ballast.unlink


SCENES = {"files": (small_files, "File too large"), "disk": (small_disk, "No space left on device")}


def main(scene: str, folder: Path, room: Path, sizes: list[int]) -> dict[str, Any]:
    """room: where the store is; the source and all else is in `folder`."""
    limit, reason = SCENES[scene]
    config = table_config(write_source(folder / "source", ROWS), shard={"max_samples": 10}, ingest={"batch_rows": 15})
    whole, store, log = folder / "whole", room / "store", folder / "log"
    ended = in_child(lambda: run_until(config, whole, "shard"), log)
    assert ended.status == 0, ended.said
    sharded = contents(Store(whole))
    shutil.copytree(whole, folder / "sharded")
    ended = in_child(lambda: run_until(config, whole, FORGET), log)
    assert ended.status == 0, ended.said
    states = {"shard": ({}, sharded), FORGET: (sharded, contents(Store(whole)))}
    said: list[str] = []
    problems: list[str] = []
    for step in ("shard", FORGET):
        for size in sizes:
            shutil.rmtree(store, ignore_errors=True)
            if step == FORGET:
                shutil.copytree(folder / "sharded", store)

            def work(step: str = step, size: int = size) -> None:
                end = limit(size, store)
                try:
                    run_until(config, store, step)
                finally:
                    end()

            ended = in_child(work, log)
            found = []
            if ended.status:
                said.append(f"{step}: {ended.said}")
                lines = ended.said.splitlines()
                if ended.status != 3 or len(lines) != 1 or reason not in lines[0] or str(room) not in lines[0]:
                    found.append(f"ended with {ended.status}: {ended.said}")
            found += broken(Store(store)) if store.exists() else []
            found += [f"{path} is half-written" for path in half_written(Store(store), *states[step])]
            found += [f"{path} was left" for path in Store(store).walk() if "/.tmp-" in path]

            def again(step: str = step) -> None:
                run_until(config, store, step)
                read_all(Store(store), config.name)

            ended = in_child(again, log)
            found += [f"the rerun failed: {ended.said}"] if ended.status else []
            found += [f"{path} differs" for path in differing(contents(Store(store)), states[step][1])]
            problems += [f"{step} in {size} bytes: {line}" for line in found]
    return {"said": said, "problems": problems}


if __name__ == "__main__":
    os.environ["MMGEN_COMMIT"] = "none"
    os.fsync = lambda _: None  # type: ignore[assignment]
    forgotten.secrets = types.SimpleNamespace(token_bytes=bytes)  # type: ignore[assignment]
    _, which, where, small, *rest = sys.argv
    sys.stdout.write(json.dumps(main(which, Path(where), Path(small), [int(each) for each in rest])) + "\n")
