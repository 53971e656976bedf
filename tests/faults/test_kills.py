"""SIGKILL at every write of the data line: nothing committed is lost, nothing half-written shows (law 4)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmgen import steps
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.children import FORGET, STEPS, broken, contents, half_written, read_all
from tests.faults.runner import ROOT, launch

#: what a step is known to write; without it the step cannot have been watched
WRITES = {
    "ingest": {
        ("os.rename", "cache/source-tiny.sqlite"), ("os.rename", "staging/batches/….plan.tar"),
        ("half a piece", "staging/batches/.tmp"), ("os.rename", "staging/batches/….tar"),
        ("half, then os.rename", "staging/batches/….tar.idx"), ("os.rename", "staging/batches/….parquet"),
        ("os.rename", "staging/batches/….rejections.parquet"), ("os.rename", "staging/batches/….json"),
        ("os.remove", "staging/batches/….plan.tar"), ("half, then os.link", "staging/…/manifest.json"),
    },
    "validate": {
        ("os.mkdir", "datasets/tiny/versions/1"), ("os.link", "datasets/tiny/versions/1/claim"),
        ("half, then os.rename", "datasets/tiny/versions/1/verdicts.parquet"),
        ("open", "datasets/tiny/versions/1/.tmp"), ("half, then os.link", "datasets/tiny/versions/1/verdicts.json"),
    },
    "shard": {
        ("half a piece", "datasets/tiny/shards/.tmp"), ("os.rename", "datasets/tiny/shards/train-….tar"),
        ("half, then os.rename", "datasets/tiny/shards/train-….parquet"),
        ("half, then os.link", "datasets/tiny/versions/1/manifest.json"),
    },
    FORGET: {
        ("half, then os.link", "forgotten/tiny/1.json"), ("os.link", "datasets/tiny/versions/2/claim"),
        ("half, then os.link", "datasets/tiny/versions/2/manifest.json"),
        ("os.link", "datasets/tiny/versions/1/purged-1.json"), ("os.remove", "datasets/tiny/shards/train-….tar"),
        ("os.remove", "cache/source-tiny.sqlite"), ("half, then os.rename", "datasets/tiny/versions/1/report.html"),
        ("os.rename", "datasets/tiny/versions/1/verdicts.parquet"),
    },
}  # fmt: skip


def killed(step: str, folder: Path, stride: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killer", str(folder), step, str(stride)],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("step", [*STEPS, FORGET])
def test_a_step_killed_at_any_seventh_moment_ends_byte_identical_when_run_again(step: str, tmp_path: Path) -> None:
    found = killed(step, tmp_path, 7)
    assert found["problems"] == []
    assert WRITES[step] - {(event, path) for _, event, path in found["points"]} == set()
    assert found["tried"] >= 5


@pytest.mark.slow
@pytest.mark.parametrize("step", [*STEPS, FORGET])
def test_a_step_killed_at_any_moment_ends_byte_identical_when_run_again(step: str, tmp_path: Path) -> None:
    found = killed(step, tmp_path, 1)
    assert found["problems"] == []
    assert found["tried"] == len(found["points"])


def children_of(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells which children a process has")
def test_a_killed_parent_takes_its_workers_along_and_the_rerun_is_byte_identical(tmp_path: Path) -> None:
    config = table_config(write_source(tmp_path / "source", 48), ingest={"batch_rows": 4}, shard={"max_samples": 8})
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "store")
    for _ in steps.run(config, Runtime(whole), STEPS):
        pass
    running = launch(config, store.uri, workers=2)
    end = time.monotonic() + 60
    while sum(name.endswith(".json") for name in store.names("staging/batches")) < 2:
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)
    workers = children_of(running.pid)
    assert len(workers) >= 2
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    end = time.monotonic() + 5
    while any(Path(f"/proc/{each}").exists() for each in workers):
        assert time.monotonic() < end, "its workers are still there"
        time.sleep(0.01)
    assert broken(store) == []
    assert half_written(store, contents(whole)) == []
    again = launch(config, store.uri, workers=2)
    assert again.wait(120) == 0, again.communicate()[1]
    again.communicate()
    assert contents(store) == contents(whole)
    read_all(store, config.name)
