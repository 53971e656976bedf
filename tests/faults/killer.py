"""Runs a step of the data line again and again, killed at each of its writes in turn, then once to its end.

`python -m tests.faults.killer FOLDER STEP` prints one JSON object: the writes that the step makes, and what went wrong.
One process imports everything and forks for each run, before any thread is started: a fresh interpreter per kill
would take minutes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmgen import artifact, forget, forgotten, ingest, shards, steps, tombstones, validate  # noqa: F401  imported before the forks
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source

STEPS = ("ingest", "validate", "shard")
FORGET = "forget"
ROWS = 50
FORGOTTEN = ("s0003", "s0017", "s0041")
#: at a write: the temporary file is half there, or the file has just got its name
MOMENTS = ("half", "named")


def run_until(config: Config, folder: Path, step: str) -> None:
    """The line up to `step`, as the command line runs it; or what `mmgen forget --purge` does."""
    if step == FORGET:
        forget.forget(Store(folder), config.name, FORGOTTEN, purge=True)
        return
    for _ in steps.run(config, Runtime(Store(folder)), STEPS[: STEPS.index(step) + 1]):
        pass


def in_child(work: Callable[[], None]) -> int:
    """The exit status of `work` in a forked child; −9 if it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(number: int, moment: str) -> None:
    """Kill this process at its write of this number (from 1), at this moment of it."""
    count = 0

    def hooked(name: str) -> None:
        real = getattr(os, name)

        def call(source: Any, *target: Any) -> None:
            nonlocal count
            count += 1
            if count == number and moment == "half":
                if target:
                    os.truncate(source, os.path.getsize(source) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                real(source, *target)
            finally:
                # also where the name was taken: the loop over all writes must not end there
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, call)

    # a store gives a file its name by one of these two, and by nothing else
    hooked("replace")
    hooked("link")
    # and takes one away by this
    hooked("remove")


def broken(store: Store) -> list[str]:
    """What is committed and not whole, but for what was purged: nothing, ever."""
    found: list[Artifact] = [
        made
        for kind in artifact.KINDS
        for name in artifact.names(store, kind)
        for made in artifact.history(store, kind, name)
    ]
    return [
        line
        for made in found
        for line in artifact.damaged(store, made, rehash=True)
        if line.split(": ")[0] not in tombstones.purged(store, made)
    ]


def contents(store: Store) -> dict[str, str]:
    """All files but temporary ones; manifests without their circumstance."""
    found = {}
    for path in store.walk():
        name = path.rsplit("/", 1)[-1]
        # a plan is scratch: the run that is killed right after the batch's commit, or among shards, leaves it to gc
        # and a purge that was killed between two tombstones puts the first ones twice
        if name.startswith((".tmp-", tombstones.PREFIX)) or name.endswith((".plan.tar", ".plan.parquet")):
            continue
        data = store.read(path)
        if path.startswith(f"{forgotten.FOLDER}/"):
            data = json.dumps(json.loads(data) | {"time": ""}).encode()
        if name in ("manifest.json", "verdicts.json"):
            made = dataclasses.replace(Artifact.from_json(data, path), circumstance={})
            data = made.to_json()
        found[path] = data.hex() if len(data) < 100 else artifact.fingerprint(data=data.hex())
    return found


def main(folder: Path, step: str) -> dict[str, Any]:
    config = table_config(write_source(folder / "source", ROWS), shard={"max_samples": 20}, ingest={"batch_rows": 30})
    before, whole, store = folder / "before", folder / "whole", folder / "store"
    if step != "ingest":
        earlier = STEPS[(STEPS.index(step) if step in STEPS else len(STEPS)) - 1]
        assert in_child(lambda: run_until(config, before, earlier)) == 0
    else:
        before.mkdir()
    shutil.copytree(before, whole)
    assert in_child(lambda: run_until(config, whole, step)) == 0
    wanted = contents(Store(whole))
    problems: list[str] = []
    for moment in MOMENTS:
        number = 0
        while True:
            number += 1
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(before, store)

            def killed(number: int = number, moment: str = moment) -> None:
                kill_at(number, moment)
                run_until(config, store, step)

            status = in_child(killed)
            if status == 0:
                break
            if status != -signal.SIGKILL:
                problems.append(f"{moment} write {number}: ended with {status} instead of being killed")
            problems += [f"{moment} write {number}: {line}" for line in broken(Store(store))]
            if in_child(lambda: run_until(config, store, step)) != 0:
                problems.append(f"{moment} write {number}: the rerun failed")
            found = contents(Store(store))
            problems += [
                f"{moment} write {number}: {path} differs"
                for path in {*found, *wanted}
                if found.get(path) != wanted.get(path)
            ]
    return {"writes": number - 1, "problems": problems}


if __name__ == "__main__":
    # what a killed process wrote stays with the kernel; only a power cut needs the flush that makes this slow
    os.environ["MMGEN_COMMIT"] = "none"
    os.fsync = lambda _: None  # type: ignore[assignment]
    # the ledger's salt, the same in every run
    forgotten.secrets = types.SimpleNamespace(token_bytes=bytes)  # type: ignore[assignment]
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2])) + "\n")
