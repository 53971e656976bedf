"""Steps of the data line in forked children, and what anyone who reads the store sees of them.

The process that forks has imported everything and started no thread: a fresh interpreter for each of hundreds of runs
would take minutes. So whatever starts threads (polars, S3) is called in children only.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmgen import artifact, forget, forgotten, ingest, shards, steps, tombstones, validate  # noqa: F401  before the forks
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.dataset import Dataset
from mmgen.errors import MmgenError
from mmgen.runtime import Runtime
from mmgen.store import Store

STEPS = ("ingest", "validate", "shard")
FORGET = "forget"
FORGOTTEN = ("s0003", "s0011", "s0017")


@dataclass(frozen=True)
class Ended:
    """How a child ended. status: its exit code as the command line would have it, −9 if it was killed, 1 and a
    traceback for what no command would tell well. said: what it wrote."""

    status: int
    said: str


def run_until(config: Config, folder: Path | str, step: str) -> None:
    """The line up to `step`, as the command line runs it; or what `mmgen forget --purge` does."""
    if step == FORGET:
        forget.forget(Store(folder), config.name, FORGOTTEN, purge=True)
        return
    for _ in steps.run(config, Runtime(Store(folder)), STEPS[: STEPS.index(step) + 1]):
        pass


def start(work: Callable[[], None], log: Path) -> int:
    """The id of a forked child that does `work`, what it says going to `log`."""
    child = os.fork()
    if child == 0:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = 1
        try:
            work()
            status = 0
        except MmgenError as error:
            sys.stderr.write(f"{error}\n")
            status = error.exit_code
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def wait(child: int, log: Path) -> Ended:
    """How it ended."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, log.read_text(errors="replace"))


def in_child(work: Callable[[], None], log: Path) -> Ended:
    """How `work` ended in a child of its own."""
    return wait(start(work, log), log)


# ---------------------------------------------------------------- what a reader sees


def committed(store: Store) -> list[Artifact]:
    """All that has a manifest. Raises IntegrityError for one that is not whole."""
    return [
        made
        for kind in artifact.KINDS
        for name in artifact.names(store, kind)
        for made in artifact.history(store, kind, name)
    ]


def broken(store: Store) -> list[str]:
    """What is committed and not whole, but for what was purged: nothing, ever."""
    return [
        line
        for made in committed(store)
        for line in artifact.damaged(store, made, rehash=True)
        if line.split(": ")[0] not in tombstones.purged(store, made)
    ]


def read_all(store: Store, name: str) -> None:
    """Read the newest version of a data set as anyone would, every sample of it."""
    latest = artifact.latest(store, "dataset", name, passed=True)
    if latest is not None:
        with Dataset(store, latest) as dataset:
            assert len([dataset[key].values for key in dataset.keys()]) == latest.facts["counts"]["kept"]  # noqa: SIM118


def contents(store: Store) -> dict[str, str]:
    """Path → digest of all files but temporary ones; manifests without their circumstance."""
    found = {}
    for path in store.walk():
        name = path.rsplit("/", 1)[-1]
        # a batch's plan is scratch: the run that is killed right after the batch's commit leaves it to gc
        # and a purge that was killed between two tombstones puts the first ones twice
        # and requests that were repeated are counted
        if name.startswith((".tmp-", tombstones.PREFIX, "fetches-")) or name.endswith((".plan.tar", ".plan.parquet")):
            continue
        data = store.read(path)
        if path.startswith(f"{forgotten.FOLDER}/"):
            data = json.dumps(json.loads(data) | {"time": ""}).encode()
        if name in ("manifest.json", "verdicts.json"):
            made = dataclasses.replace(Artifact.from_json(data, path), circumstance={})
            data = made.to_json()
        found[path] = data.hex() if len(data) < 100 else artifact.fingerprint(data=data.hex())
    return found


def differing(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Paths whose files differ."""
    return sorted(path for path in {*found, *wanted} if found.get(path) != wanted.get(path))


def half_written(store: Store, *states: Mapping[str, str]) -> list[str]:
    """Named files that are not what they are in any of these states of a store."""
    return sorted(
        path for path, digest in contents(store).items() if all(state.get(path) != digest for state in states)
    )
