"""Our generators in the comparison: trained through the line's own steps, then asked for every direction.

    python -m benchmarks.models.ours REQUEST.json

One process, so that its processor time is that of the training: codecs, latents, fusion and generator. Judges, the
evaluation set and the `tensors` features are there already (`lines.prepare`), as they are for the peers. The request:
{"table", "variant", "seed", "changes", "store", "exam": the complete set's name, "made", "joint", "threads"}.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models import lines
from mmgen import artifact as artifacts
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.batches import Batch
from mmgen.evaluate.exam import read_exam
from mmgen.evaluate.measure import Draws, make
from mmgen.generators.sampling import Sampling
from mmgen.maker import Maker
from mmgen.runtime import Runtime
from mmgen.store import Store

TRAINED = ("fit", "extract", "train-fusion", "train-generator")


def directions(slots: list[str], makes: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every proper subset of the slots, and every slot outside it that is made."""
    for size in range(1, len(slots)):
        for given in itertools.combinations(sorted(slots), size):
            yield from ((given, slot) for slot in sorted(makes) if slot not in given)


def made_of(maker: Maker, real: Batch, request: dict[str, Any], guidance: tuple[float, float]) -> dict[str, np.ndarray]:
    """Arrays as `peer.py` leaves them."""
    found = {}
    everyone = torch.arange(len(real))
    for given, slot in directions(list(maker.slots), maker.makes):
        draws = Draws(Sampling(request["steps"], guidance[0]), request["seed"])
        found[f"{'+'.join(given)}>{slot}"] = plain(make(maker, real, given, (slot,), everyone, draws)[slot])
    if len(maker.makes) > 1:
        nothing = torch.arange(request["joint"]) % len(real)
        draws = Draws(Sampling(request["steps"], guidance[1]), request["seed"])
        for slot, value in make(maker, real, (), maker.makes, nothing, draws).items():
            found[f">{slot}"] = plain(value)
    return found


def plain(value: Tensor) -> np.ndarray:
    """Grids as they are, token ids as int32."""
    array: np.ndarray = value.numpy() if value.is_floating_point() else value.numpy().astype(np.int32)
    return array


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Train and make; see the module."""
    torch.set_num_threads(request["threads"])
    store = Store(request["store"])
    config = lines.config_of(Path(request["table"]), request["variant"], request["seed"], request["changes"])
    runtime = Runtime(store, workers=1)
    made: dict[str, Artifact] = {}
    parts, start = {}, time.process_time()
    for name in steps.NAMES[: steps.NAMES.index("train-generator") + 1]:
        step, before = steps.STEPS[name], time.process_time()
        outcome = steps.perform(step, config, steps.gather(step, config, runtime, made), runtime)
        made[name] = outcome.artifact
        if name in TRAINED:
            parts[name] = time.process_time() - before
    start = time.process_time()
    maker = Maker.load(store, made["fit"], made["train-fusion"], made["train-generator"])
    evalset = artifacts.latest(store, "evalset", request["exam"])
    assert evalset is not None
    exam = read_exam(store, evalset, maker.codecs, "test", "cpu")
    assert exam is not None
    guidance = (config.evaluate.guidance, config.evaluate.joint_guidance)
    np.savez(request["made"], **made_of(maker, exam.real, request, guidance))  # type: ignore[arg-type]
    return {
        "cpu_s": sum(parts.values()), "parts": parts, "making_cpu_s": time.process_time() - start,
        "parameters": sum(w.numel() for net in (maker.generator, maker.fusion, *maker.codecs.codecs.values())
                          for w in net.parameters()),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
