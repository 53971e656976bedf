"""Steps of a line that does no real work: what flows need to be tested without training anything."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmgen import steps
from mmgen.artifact import Artifact, Draft
from mmgen.config import Config
from mmgen.errors import GateError
from mmgen.identity import identity
from mmgen.runtime import Runtime

MODULE = __name__
COUNTS = {"inputs": 4, "kept": 3, "quarantined": 1, "dropped": 0}


def square(number: int) -> int:
    """A batch of work."""
    if pause := os.environ.get("STANDIN_PAUSE"):
        time.sleep(float(pause))
    return number * number


def source_digest(config: Config, _runtime: Runtime, *, prepare: bool = False) -> str:
    return hashlib.sha256(Path(config.source.path).read_bytes()).hexdigest()


def _commit(
    step: str, config: Config, inputs: Mapping[str, Artifact], runtime: Runtime, facts: dict[str, Any]
) -> Artifact:
    made = steps.STEPS[step]
    digest = source_digest(config, runtime) if step == "ingest" else None
    mine = identity(step, config, inputs, digest)
    draft = Draft(runtime.store, made.makes, config.name + made.suffix, mine.fingerprint)
    draft.put("data.json", json.dumps(facts).encode(), "data")
    links = {role: each.link for role, each in inputs.items()}
    return draft.commit(step=step, config=mine.config, inputs=links, facts=facts, pin=mine.pin)


def ingest(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    squares = runtime.map("squares", square, [(number,) for number in range(6)], runtime.workers)
    return _commit("ingest", config, inputs, runtime, {"squares": squares})


def validate(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    if "refuse" in Path(config.source.path).read_text():
        raise GateError("gate: wanted at most 5% quarantined, came 25%")
    return _commit("validate", config, inputs, runtime, {"counts": COUNTS})


def shard(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    if "break" in Path(config.source.path).read_text():
        raise RuntimeError("a defect")
    return _commit("shard", config, inputs, runtime, {"counts": COUNTS})


def table() -> dict[str, steps.Step]:
    """ingest, validate and shard without their work; names, kinds and inputs as in the real line."""
    names = ("ingest", "validate", "shard")
    real = {name: steps.STEPS[name] for name in names}
    return {
        name: steps.Step(name, step.makes, step.inputs, f"{MODULE}:{name}", step.suffix) for name, step in real.items()
    }
