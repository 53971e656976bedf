"""Two processes on one store, started at the same moment, again and again.

`python -m tests.faults.racer SCENE FOLDER TIMES` prints one JSON object: how both ended each time, and what went wrong.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmgen import artifact, forgotten
from mmgen.config import Config
from mmgen.store import Store
from tests.data_sources import read_table, table_config, write_source, write_table
from tests.faults.children import (
    FORGET,
    FORGOTTEN,
    broken,
    contents,
    differing,
    in_child,
    read_all,
    run_until,
    start,
    wait,
)

ROWS = 24


def named(config: Config, name: str) -> Config:
    return config.model_copy(update={"name": name})


def keys(store: Store, name: str) -> set[str]:
    """The keys of the newest version."""
    from mmgen.dataset import Dataset

    latest = artifact.latest(store, "dataset", name, passed=True)
    if latest is None:
        return set()
    with Dataset(store, latest) as dataset:
        return set(dataset.keys())


def main(scene: str, folder: Path, times: int) -> dict[str, Any]:
    table = write_source(folder / "source", ROWS)
    config = table_config(table, shard={"max_samples": 10}, ingest={"batch_rows": 6})
    renamed = named(config, "other")
    before, whole, log = folder / "before", folder / "whole", folder / "log"
    before.mkdir()
    if scene == FORGET:
        # the run has something to do: rows that came since
        write_table(table, read_table(table)[:-4])
        assert in_child(lambda: run_until(config, before, "shard"), log).status == 0
        write_source(folder / "source", ROWS)
    pair: tuple[Callable[[Path], None], Callable[[Path], None]] = {
        "same": (lambda store: run_until(config, store, "shard"),) * 2,
        "names": (lambda store: run_until(config, store, "shard"), lambda store: run_until(renamed, store, "shard")),
        FORGET: (lambda store: run_until(config, store, "shard"), lambda store: run_until(config, store, FORGET)),
    }[scene]
    names = ("tiny", "other") if scene == "names" else ("tiny",)
    wanted = []
    for order in (names, names[::-1]):
        # whoever stages first gives a staging its name
        shutil.rmtree(whole, ignore_errors=True)
        for name in order:
            done = in_child(lambda name=name: run_until(named(config, name), whole, "shard"), log)  # type: ignore[misc]
            assert done.status == 0, done.said
        wanted.append(contents(Store(whole)))
    ended, problems = [], list[str]()
    for number in range(times):
        store = folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(before, store)
        at = time.monotonic() + 0.02
        # a little later each time, over all of what the first one does
        waits = (at, at + (0.0 if number % 2 == 0 else 0.01 * number))
        logs = (folder / "one", folder / "other")

        def at_once(work: Callable[[Path], None], moment: float, store: Path = store) -> Callable[[], None]:
            def go() -> None:
                while time.monotonic() < moment:
                    pass
                work(store)

            return go

        children = [start(at_once(work, moment), own) for work, moment, own in zip(pair, waits, logs, strict=True)]
        both = [wait(child, own) for child, own in zip(children, logs, strict=True)]
        ended.append([each.status for each in both])
        found = broken(Store(store))
        for each in both:
            # a purge may take away what the run beside it reads; the run says so, and what to do
            told = scene == FORGET and re.search("run .*again", each.said) and "Traceback" not in each.said
            if each.status and not told:
                found.append(f"ended with {each.status}: {each.said}")
        found += again(config, names, store, log, forgot=scene == FORGET)
        if scene != FORGET:
            found += [
                f"{path} differs" for path in min((differing(contents(Store(store)), each) for each in wanted), key=len)
            ]
        problems += [f"time {number}: {line}" for line in found]
    return {"ended": ended, "problems": problems}


def again(config: Config, names: tuple[str, ...], store: Path, log: Path, *, forgot: bool) -> list[str]:
    """What is wrong after both commands are given once more: nothing may be lost, nothing may come back."""

    def work() -> None:
        if forgot:
            run_until(config, store, FORGET)
        for name in names:
            run_until(named(config, name), store, "shard")
            read_all(Store(store), name)
            gone = set(FORGOTTEN) if forgot else set()
            wanted = {f"s{number:04d}" for number in range(ROWS)} - gone
            found = keys(Store(store), name)
            assert found == wanted, f"{name}: {sorted(found ^ wanted)}"
            for kind in ("verdicts", "dataset"):
                numbers = artifact.versions(Store(store), kind, name)
                assert forgot or numbers == [1], f"{kind}: {numbers}"

    done = in_child(work, log)
    return [f"once more: {done.said}"] if done.status else broken(Store(store))


if __name__ == "__main__":
    os.environ["MMGEN_COMMIT"] = "none"
    os.fsync = lambda _: None  # type: ignore[assignment]
    forgotten.secrets = types.SimpleNamespace(token_bytes=bytes)  # type: ignore[assignment]
    sys.stdout.write(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))) + "\n")
