"""What each process of test_kills.py runs: a training with everything that has to go on, told step by step.

    python -m tests.unit.training.kill_worker FOLDER STEPS PAUSE [KILLED_AT]

PAUSE: seconds that a step takes longer, so that a kill can hit it. KILLED_AT: the step in which it kills itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.store import Store
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.loop import Callbacks, mean_loss, train
from mmgen.training.parallel import joined
from tests.unit.training.test_loop import IDENTITY, Net, config, loader


def work(folder: Path, steps: int, pause: float, killed_at: int | None) -> None:
    """Train; lay down the curves as JSON, and the bytes of the weights."""
    net, taken = Net(), 0

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        nonlocal taken
        taken += 1
        if taken == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdout.write("step\n")
        sys.stdout.flush()
        time.sleep(pause)
        found = net.loss(batch, rng)
        # every ninth is not finite, by the batch and so the same in every run
        return {**found, "loss": found["loss"] * (float("nan") if batch.keys[0] == "a7" else 1.0)}

    def validate(module: torch.nn.Module) -> float:
        assert isinstance(module, Net)
        return mean_loss(module, module.loss, loader(8, 9), 3)

    with joined("cpu") as world:
        settings = config(
            steps=steps, checkpoint_steps=3, validate_steps=7, take="best", deterministic=True, back_off_steps=1,
            slices=2, warmup_steps=5,
        )  # fmt: skip
        trained = train(
            net, loss, loader(8, rank=world.rank, world=world.size), settings, world=world, seed=1, what="net",
            checkpoint=Checkpoint(Store(folder), IDENTITY, settings.keep_last), callbacks=Callbacks(validate=validate),
        )  # fmt: skip
        world.wait()
        weights = b"".join(weight.detach().numpy().tobytes() for weight in trained.module.state_dict().values())
        (folder / f"{world.rank}.json").write_text(json.dumps(vars(trained.curves)))
        (folder / f"{world.rank}.weights").write_bytes(weights)
        world.wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]) if sys.argv[4:] else None)
