"""Two commands on one store at once: both end well, or one says what to do; nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mmgen import artifact, steps
from mmgen.artifact import Artifact, Draft
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.runner import ROOT


def raced(scene: str, folder: Path, times: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.racer", scene, str(folder), str(times)],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# "same": one configuration; "names": two of one source; "forget": a purge beside a run
@pytest.mark.parametrize("scene", ["same", "forget"])
def test_two_commands_at_once_lose_nothing(scene: str, tmp_path: Path) -> None:
    assert raced(scene, tmp_path, 2)["problems"] == []


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["same", "names", "forget"])
def test_two_commands_at_once_lose_nothing_at_any_distance(scene: str, tmp_path: Path) -> None:
    assert raced(scene, tmp_path, 40)["problems"] == []


def commit(draft: Draft) -> Artifact:
    draft.put("w.bin", draft.work.encode(), "weights")
    return draft.commit(step="fit", config={}, inputs={}, facts={})


def test_many_drafts_of_the_same_work_share_one_number(tmp_path: Path) -> None:
    store, gate = Store(tmp_path), threading.Barrier(12)
    made: list[Artifact] = []

    def race() -> None:
        gate.wait()
        made.append(commit(Draft(store, "model", "m", "a" * 64)))

    threads = [threading.Thread(target=race) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 12
    # one that began after the first had ended is a run of its own, and takes the next number
    assert artifact.versions(store, "model", "m") == list(range(1, 1 + len({each.version for each in made})))
    assert all(artifact.damaged(store, each, rehash=True) == [] for each in made)


def test_many_drafts_of_other_work_take_numbers_without_gaps(tmp_path: Path) -> None:
    store, gate = Store(tmp_path), threading.Barrier(12)

    def race(number: int) -> None:
        gate.wait()
        commit(Draft(store, "model", "m", f"{number:064d}"))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert artifact.versions(store, "model", "m") == list(range(1, 13))


def test_what_another_run_committed_keeps_its_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    slow, fast = (Draft(store, "model", "m", "a" * 64) for _ in range(2))
    assert slow.version == fast.version
    fast.put("w.bin", b"fast", "weights")
    won = fast.commit(step="fit", config={}, inputs={}, facts={})
    slow.put("w.bin", b"slow", "weights")
    assert slow.commit(step="fit", config={}, inputs={}, facts={}) == won
    assert artifact.damaged(store, won, rehash=True) == []


def test_the_same_verdicts_against_another_base_take_another_number(tmp_path: Path) -> None:
    store = Store(tmp_path)
    drafts = [Draft(store, "verdicts", "d", "a" * 64, work=work) for work in ("base 1", "base 2", "base 1")]
    assert [draft.version for draft in drafts] == [1, 2, 3]


def test_shards_cut_by_other_rules_from_the_same_verdicts_are_the_next_version(tmp_path: Path) -> None:
    table, runtime = write_source(tmp_path / "source", 24), Runtime(Store(tmp_path / "store"))
    for _ in steps.run(table_config(table), runtime, ("ingest", "validate", "shard")):
        pass
    other = table_config(table, shard={"max_samples": 5})
    *_, last = steps.run(other, runtime, ("ingest", "validate", "shard"))
    assert (last.ran, last.artifact.version) == (True, 2)
    *_, last = steps.run(other, runtime, ("ingest", "validate", "shard"))
    assert (last.ran, last.artifact.version) == (False, 2)
