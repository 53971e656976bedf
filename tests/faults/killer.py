"""Runs a step of the data line again and again, killed at each of its writes in turn, then once to its end.

`python -m tests.faults.killer FOLDER STEP STRIDE` prints one JSON object: the points where a kill could tell, those
that were tried (every STRIDE-th), and what went wrong.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmgen import forgotten, tars
from mmgen.config import Config
from mmgen.store import Pieces, Store
from tests.data_sources import table_config, write_source
from tests.faults.children import (
    STEPS,
    broken,
    contents,
    differing,
    half_written,
    in_child,
    read_all,
    run_until,
)

ROWS = 24
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f-]+")
_DIGEST = re.compile(r"[0-9a-f]{16,}")

# (number from 1, what happens there, where)
Point = tuple[int, str, str]


class Points:
    """Every moment at which a process changes what lies below `root`, numbered in their order.

    The interpreter itself tells of files that are opened, named, linked, removed, of folders that are made (audit
    events, before they happen); so no write can be missed, whatever code makes it. Beside them: a file that gets its
    name with only half of its bytes in it, and a piece of a tar of which only half is written.
    """

    def __init__(self, root: Path, reach: Callable[[Point], None]) -> None:
        self.root, self.count, self.reach = f"{root}{os.sep}", 0, reach
        sys.addaudithook(self._hear)
        whole = Pieces.write

        def write(pieces: Pieces, data: bytes) -> int:
            self._point("half a piece", str(pieces._temporary), lambda: whole(pieces, data[: len(data) // 2]))
            return whole(pieces, data)

        Pieces.write = write  # type: ignore[method-assign]

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        where = str(arguments[0]) if arguments else ""
        if event in ("os.rename", "os.link"):
            half = lambda: os.truncate(where, os.path.getsize(where) // 2)  # noqa: E731
            self._point(f"half, then {event}", str(arguments[1]), half)
            self._point(event, str(arguments[1]))
        elif event in ("os.remove", "os.mkdir", "os.rmdir") or (event == "open" and (arguments[2] or 0) & WRITING):
            self._point(event, where)

    def _point(self, event: str, path: str, prepare: Callable[[], Any] = lambda: None) -> None:
        if path.startswith(self.root):
            self.count += 1
            short = _DIGEST.sub("…", _TEMPORARY.sub(".tmp", path.removeprefix(self.root)))
            self.prepare = prepare
            self.reach((self.count, event, short))


def all_points(config: Config, store: Path, step: str, log: Path) -> list[Point]:
    """Run the step to its end and tell its points."""
    told = log.with_suffix(".json")

    def work() -> None:
        found: list[Point] = []
        Points(store, found.append)
        run_until(config, store, step)
        told.write_text(json.dumps(found))

    ended = in_child(work, log)
    assert ended.status == 0, ended.said
    return [(number, event, path) for number, event, path in json.loads(told.read_text())]


def killed_at(config: Config, store: Path, step: str, number: int) -> None:
    """Run the step until its point of this number, and no further."""

    def reach(point: Point) -> None:
        if point[0] == number:
            points.reach = lambda _: None
            points.prepare()
            os.kill(os.getpid(), signal.SIGKILL)

    points = Points(store, reach)
    run_until(config, store, step)


def main(folder: Path, step: str, stride: int) -> dict[str, Any]:
    config = table_config(write_source(folder / "source", ROWS), shard={"max_samples": 10}, ingest={"batch_rows": 15})
    before, whole, store, log = folder / "before", folder / "whole", folder / "store", folder / "log"
    if step != "ingest":
        earlier = STEPS[(STEPS.index(step) if step in STEPS else len(STEPS)) - 1]
        assert in_child(lambda: run_until(config, before, earlier), log).status == 0
    else:
        before.mkdir()
    shutil.copytree(before, whole)
    points = all_points(config, whole, step, log)
    states = contents(Store(before)), contents(Store(whole))
    problems: list[str] = []
    for number, event, path in points[::stride]:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(before, store)
        ended = in_child(lambda number=number: killed_at(config, store, step, number), log)  # type: ignore[misc]
        found = [f"ended with {ended.status} instead of being killed: {ended.said}"] if ended.status != -9 else []
        found += broken(Store(store))
        found += [f"{each} is half-written" for each in half_written(Store(store), *states)]

        def again() -> None:
            read_all(Store(store), config.name)
            run_until(config, store, step)
            read_all(Store(store), config.name)

        ended = in_child(again, log)
        found += [f"the reader or the rerun failed: {ended.said}"] if ended.status else []
        found += [f"{each} differs after the rerun" for each in differing(contents(Store(store)), states[1])]
        problems += [f"{event} {path} ({number}): {line}" for line in found]
    return {"points": points, "tried": len(points[::stride]), "problems": problems}


if __name__ == "__main__":
    # what a killed process wrote stays with the kernel; only a power cut needs the flush that makes this slow
    os.environ["MMGEN_COMMIT"] = "none"
    os.fsync = lambda _: None  # type: ignore[assignment]
    # the ledger's salt, the same in every run
    forgotten.secrets = types.SimpleNamespace(token_bytes=bytes)  # type: ignore[assignment]
    # tars in several pieces, as large ones have them
    tars._GATHER = 1 << 16
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))) + "\n")
