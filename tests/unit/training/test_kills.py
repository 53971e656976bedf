"""A training that is killed, by SIGKILL and anywhere, and started again: the same curve and weights, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WORKER = "tests.unit.training.kill_worker"
STEPS = 40


def start(folder: Path, *arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(several if processes > 1 else []), "-m", WORKER, str(folder), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]


def kill_at(process: subprocess.Popen[str], slice_: int) -> None:
    """Kill it once it has begun so many slices of its steps."""
    assert process.stdout is not None
    for _ in range(slice_):
        assert process.stdout.readline(), process.communicate()[1][-3000:]
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode < 0


def results(folder: Path, processes: int = 1) -> dict[str, bytes]:
    kinds = ("json", "weights")
    return {f"{rank}.{kind}": (folder / f"{rank}.{kind}").read_bytes() for rank in range(processes) for kind in kinds}


def test_a_killed_process_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = start(whole, str(STEPS), "0")
    kill_at(start(broken, str(STEPS), "0.02"), 2 * 17)
    assert (broken / "runs" / "checkpoints").is_dir()
    assert not (broken / "0.weights").exists()
    finish(start(broken, str(STEPS), "0"))
    finish(unbroken)
    assert results(broken) == results(whole)
    assert b"validation" in results(whole)["0.json"]


@pytest.mark.slow
def test_it_goes_on_from_kills_at_any_time(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole, str(STEPS), "0"))
    draw = random.Random(4)
    for _ in range(5):
        kill_at(start(broken, str(STEPS), "0.03"), draw.randint(1, 30))
    finish(start(broken, str(STEPS), "0"))
    assert results(broken) == results(whole)


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_go_on_bit_for_bit(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(whole, str(STEPS), "0", processes=2))
    killed = start(broken, str(STEPS), "0", "23", processes=2)
    killed.communicate(timeout=240)
    assert killed.returncode != 0
    assert (broken / "runs" / "checkpoints").is_dir()
    assert not (broken / "0.weights").exists()
    finish(start(broken, str(STEPS), "0", processes=2))
    assert results(broken, 2) == results(whole, 2)
    assert results(whole, 2)["0.weights"] == results(whole, 2)["1.weights"]
