"""Our generators in the comparison: trained through the line's own steps, then asked for every direction.

    python -m benchmarks.models.ours REQUEST.json

A process and a copy of the prepared store of its own (see `cells.run`), so that what is charged is all of the training
and only that: codecs, latents, fusion and generator. Judges, the evaluation set and the `tensors` features are there
already, as they are for the peers, and are adopted. The request: {"table", "variant", "seed", "store", "exam": the
complete set's name, "made" (null: no samples are), "joint", "steps", "threads", "trainings", "charged"}.
trainings: changes to the recipe, one for each generator, beside "budget_s" where its number of steps is to be measured
first. charged: names of steps.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.environments import cpu_seconds
from benchmarks.models import lines
from mmgen import artifact as artifacts
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.batches import Batch
from mmgen.config import Config
from mmgen.evaluate.exam import read_exam
from mmgen.evaluate.measure import Draws, make
from mmgen.generators.sampling import Sampling
from mmgen.maker import Maker
from mmgen.preprocess.text import TextPreprocess
from mmgen.runtime import Runtime
from mmgen.store import Store

LAST = steps.NAMES.index("train-generator") + 1
TRAINED = ("fit", "extract", "train-fusion", "train-generator")
#: steps of two trainings whose difference tells what a step costs: 20 of them did not, the figure was a third of it
SHORT, LONG = 20, 220


@dataclass(frozen=True)
class Training:
    """What one run of the line made. parts: step → processor seconds. ran: the steps that were not adopted."""

    made: dict[str, Artifact]
    parts: dict[str, float]
    ran: list[str]


def train(config: Config, runtime: Runtime) -> Training:
    """The line up to the generator. Splits follow from a seed too: those of the prepared data stay as they are."""
    data = config.model_copy(update={"seed": lines.DATA_SEED})
    made: dict[str, Artifact] = {}
    parts: dict[str, float] = {}
    ran = []
    for name in steps.NAMES[:LAST]:
        step, before = steps.STEPS[name], cpu_seconds()
        mine = config if name in TRAINED else data
        outcome = steps.perform(step, mine, steps.gather(step, mine, runtime, made), runtime)
        made[name] = outcome.artifact
        parts[name] = cpu_seconds() - before
        if outcome.ran:
            ran.append(name)
            if name not in TRAINED:
                raise SystemExit(
                    f"{name}: wanted the prepared {outcome.artifact.kind}, it was made anew: {outcome.why}"
                )
    return Training(made, parts, ran)


def with_steps(changes: dict[str, Any], count: int) -> dict[str, Any]:
    """The changes with so many steps of the generator, a tenth of them of warming up."""
    found = copy.deepcopy(changes)
    found["generator"].setdefault("train", {}).update({"steps": count, "warmup_steps": count // 10})
    return found


def directions(slots: list[str], makes: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every proper subset of the slots, and every slot outside it that is made."""
    for size in range(1, len(slots)):
        for given in itertools.combinations(sorted(slots), size):
            yield from ((given, slot) for slot in sorted(makes) if slot not in given)


def made_of(maker: Maker, real: Batch, request: dict[str, Any], guidance: tuple[float, float]) -> dict[str, np.ndarray]:
    """Arrays as `peer.py` leaves them."""
    said = lines.texts_of(Store(request["store"]))

    def plain(slot: str, value: Tensor) -> np.ndarray:
        how = maker.codecs.preprocesses[slot]
        array: np.ndarray = lines.retold(value, how, said) if isinstance(how, TextPreprocess) else value.float().numpy()
        return array

    found = {}
    everyone = torch.arange(len(real))
    conditional, joint = (Draws(Sampling(request["steps"], each), request["seed"]) for each in guidance)
    for given, slot in directions(list(maker.slots), maker.makes):
        found[f"{'+'.join(given)}>{slot}"] = plain(slot, make(maker, real, given, (slot,), everyone, conditional)[slot])
    if len(maker.makes) > 1:
        nothing = torch.arange(request["joint"]) % len(real)
        made = make(maker, real, (), maker.makes, nothing, joint)
        found |= {f">{slot}": plain(slot, value) for slot, value in made.items()}
    return found


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Train and make; see the module."""
    torch.set_num_threads(request["threads"])
    runtime = Runtime(Store(request["store"]), workers=1)
    evalset = artifacts.latest(runtime.store, "evalset", request["exam"])
    assert evalset is not None

    def configured(changes: dict[str, Any]) -> Config:
        return lines.config_of(Path(request["table"]), request["variant"], request["seed"], changes)

    arrays: dict[str, np.ndarray] = {}
    costs: dict[str, Any] = {"cpu_s": 0.0, "parts": [], "ran": [], "steps": [], "making_cpu_s": 0.0, "parameters": 0}
    for asked in request["trainings"]:
        changes, budget = {key: each for key, each in asked.items() if key != "budget_s"}, asked.get("budget_s")
        if budget is not None:
            short, long = (
                train(configured(with_steps(changes, count)), runtime).parts["train-generator"]
                for count in (SHORT, LONG)
            )
            each = max(1e-3, (long - short) / (LONG - SHORT))
            changes = with_steps(changes, max(LONG + 1, int((budget - (short - SHORT * each)) / each)))
        config = configured(changes)
        trained = train(config, runtime)
        costs["cpu_s"] += sum(trained.parts[name] for name in request["charged"])
        costs["parts"].append({name: round(trained.parts[name], 2) for name in request["charged"]})
        costs["ran"].append(trained.ran)
        costs["steps"].append(config.generator.train.steps)
        if request["made"] is None:
            continue
        before = cpu_seconds()
        fit, fusion, generator = (trained.made[name] for name in ("fit", "train-fusion", "train-generator"))
        maker = Maker.load(runtime.store, fit, fusion, generator)
        exam = read_exam(runtime.store, evalset, maker.codecs, "test", "cpu")
        assert exam is not None
        guidance = (config.evaluate.guidance, config.evaluate.joint_guidance)
        arrays |= made_of(maker, exam.real, request, guidance)
        costs["making_cpu_s"] += cpu_seconds() - before
        networks = [maker.generator]
        if "fit" in request["charged"]:
            networks += [maker.fusion, *maker.codecs.codecs.values()]
        costs["parameters"] += sum(weight.numel() for network in networks for weight in network.parameters())
    if request["made"] is not None:
        np.savez(request["made"], allow_pickle=False, **arrays)
    rows = sum(steps.train_shards(trained.made["shard"]).values())
    return {**costs, "rows": rows, "steps": sum(costs["steps"]), "skipped": 0}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
