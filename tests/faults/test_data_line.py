"""The data line under kills and full disks: nothing committed is lost, nothing half-written shows (law 4)."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmgen import steps
from mmgen.errors import StoreError
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.killer import FORGET, STEPS, broken, contents

ROOT = Path(__file__).parents[2]
#: fewer writes than this and the step cannot have been watched
LEAST_WRITES = {"ingest": 8, "validate": 6, "shard": 14, FORGET: 30}


@pytest.mark.parametrize("step", [*STEPS, FORGET])
def test_a_step_killed_at_any_write_ends_byte_identical_when_run_again(step: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killer", str(tmp_path), step],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"] == []
    assert found["writes"] >= LEAST_WRITES[step]


class Full:
    """A disk that has room for `room` more flushes of files. Real ones often say so only then."""

    def __init__(self, room: int) -> None:
        self.room, self.real = room, os.fsync

    def __call__(self, handle: int) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.real(handle)


def test_a_full_disk_is_a_store_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = table_config(write_source(tmp_path / "source", 30))
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "store")
    for _ in steps.run(config, Runtime(whole), STEPS):
        pass
    said: list[str] = []
    # each try gets a little further than the one before, until there is room for what is left
    for room in (0, 1, 3, 5, 8, 9, 12, 16, 20, 24):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", Full(room))
            try:
                for _ in steps.run(config, Runtime(store), STEPS):
                    pass
            except StoreError as error:
                said.append(str(error))
        assert broken(store) == []
        assert not [path for path in store.walk() if "/.tmp-" in path]
    assert len(said) >= 4
    assert all("No space left on device" in line for line in said)
    for _ in steps.run(config, Runtime(store), STEPS):
        pass
    assert contents(store) == contents(whole)
