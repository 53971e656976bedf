"""Several processes, as torchrun starts them, take the same steps as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmgen.training.loop import train
from tests.unit.training.test_loop import ALONE, Net, config, loader

ROOT = Path(__file__).resolve().parents[3]


def launch(folder: Path, processes: int, slices: int) -> list[dict[str, Any]]:
    """Run the worker under torchrun; what each process wrote."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        "-m", "tests.unit.training.ddp_worker", str(folder), str(slices),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_take_the_same_steps_as_one(tmp_path: Path) -> None:
    """Noise and dropout included: what a slice draws depends on the slice, not on the process that works it."""
    net = Net()
    trained = train(net, net.loss, loader(), config(slices=2), world=ALONE, seed=1, what="net", bf16=False)
    both = launch(tmp_path, 2, slices=2)
    assert [each["size"] for each in both] == [2, 2]
    wanted = [float(weight.detach().double().sum()) for weight in net.parameters()]
    for each in both:
        assert each["losses"] == pytest.approx(trained.curves.loss, rel=1e-4)
        assert each["weights"] == pytest.approx(wanted, abs=1e-3)
    assert both[0] == both[1]
