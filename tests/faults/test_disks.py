"""Disks without room: no file half-written, nothing lost, one clear line; with room again, byte-identical contents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.children import broken
from tests.faults.runner import ROOT

DISK_BYTES = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("no `mount` here")
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], timeout=20, check=True)


def tried(scene: str, folder: Path, room: Path, sizes: list[int]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.rooms", scene, str(folder), str(room), *map(str, sizes)],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_file_that_may_not_grow_is_a_store_error_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    # fails at a plan, at the ledger, at a staging tar, at a shard
    found = tried("files", tmp_path, tmp_path / "room", [300, 9_000, 60_000])
    assert found["problems"] == []
    assert len(found["said"]) == 6


def test_a_full_disk_is_a_store_error_and_loses_nothing(disk: Path, tmp_path: Path) -> None:
    found = tried("disk", tmp_path, disk, [0, 400_000, 700_000, 1_000_000, 1_200_000])
    assert found["problems"] == []
    assert {line.split(":")[0] for line in found["said"]} == {"shard", "forget"}
    assert len(found["said"]) >= 6


@pytest.mark.slow
def test_disks_that_are_full_at_every_stage_of_the_line(disk: Path, tmp_path: Path) -> None:
    found = tried("disk", tmp_path, disk, list(range(0, 1_500_000, 25_000)))
    assert found["problems"] == []
    (tmp_path / "room").mkdir()
    (tmp_path / "files").mkdir()
    limits = [round(300 * 1.25**step) for step in range(30)]
    found = tried("files", tmp_path / "files", tmp_path / "room", limits)
    assert found["problems"] == []
    assert len(found["said"]) > 40


@pytest.mark.slow
@pytest.mark.parametrize("free", [8 << 10, 1 << 20, 3 << 20])
def test_the_command_says_in_one_line_that_the_disk_is_full(free: int, disk: Path, tmp_path: Path) -> None:
    config = table_config(write_source(tmp_path / "source", 100))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_json()))
    with (disk / "ballast").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, DISK_BYTES - free)
    command = ["-m", "flows.cli", "run", str(tmp_path / "config.yaml"), "--until", "shard", "--store", str(disk / "s")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "No space left on device" in last or "KiB are free on its disk" in last
    assert broken(Store(disk / "s")) == []
