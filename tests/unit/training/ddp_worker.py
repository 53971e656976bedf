"""What each process of test_ddp.py runs: train, and write down the losses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mmgen.training.loop import train
from mmgen.training.parallel import joined
from tests.unit.training.test_loop import Net, config, loader

if __name__ == "__main__":
    target, slices = Path(sys.argv[1]), int(sys.argv[2])
    with joined("cpu") as world:
        net = Net()
        if not world.first:
            # a process that starts elsewhere must be brought to the first one's weights
            for weight in net.parameters():
                weight.data.zero_()
        trained = train(
            net, net.loss, loader(8, rank=world.rank, world=world.size), config(slices=slices), world=world, seed=1,
            what="net", bf16=False,
        )  # fmt: skip
        weights = [weight.double().sum().item() for weight in trained.module.parameters()]
        found = {"losses": trained.curves.loss, "weights": weights, "size": world.size}
        (target / f"{world.size}-{world.rank}.json").write_text(json.dumps(found))
        world.wait()
