"""Where the time goes: phases that add up, told once, off unless asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from mmgen import steps
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.loop import Callbacks
from mmgen.training.profile import PHASES, Stopwatch, shown
from tests.tiny_line import PARTS, TRAIN, Lines, config_of, copied
from tests.unit.training.test_loop import IDENTITY, Net, config, run, same


def test_seconds_go_to_the_phase_that_they_were_spent_in() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.to("forward")
    time.sleep(0.05)
    watch.to("backward")
    time.sleep(0.02)
    watch.to("forward")
    time.sleep(0.05)
    watch.to("host")
    found = watch.found(2)
    assert found["phases"]["forward"] == pytest.approx(0.10, abs=0.03)
    assert found["phases"]["backward"] == pytest.approx(0.02, abs=0.015)
    assert found["seconds"] == pytest.approx(sum(found["phases"].values()), abs=1e-3)
    assert "checkpoint" not in found["phases"]
    table = shown("net", {"steps": 2, "seconds": 0.2, "phases": {"forward": 0.15, "loader": 0.05}})
    assert table.splitlines() == [
        "net: 2 steps in 0.2 s",
        "  forward         0.15 s  75.0%     75.00 ms a step",
        "  loader          0.05 s  25.0%     25.00 ms a step",
    ]


def test_a_training_tells_all_its_phases_and_stays_what_it_was(store: Store) -> None:
    class Slow(Net):
        def loss(self, batch, rng):  # type: ignore[no-untyped-def]
            time.sleep(0.01)
            return super().loss(batch, rng)

    def validate(module: nn.Module) -> float:
        time.sleep(0.02)
        return 1.0

    lines = Lines()
    started = time.perf_counter()
    trained = run(
        Slow(), config(validate_steps=10), callbacks=Callbacks(validate=validate), profile=True, progress=lines,
        checkpoint=Checkpoint(store, IDENTITY),
    )  # fmt: skip
    took = time.perf_counter() - started
    assert trained.profile is not None
    phases = trained.profile["phases"]
    assert set(phases) == set(PHASES)
    assert trained.profile["steps"] == 30
    assert 0.3 < phases["forward"] < took
    assert phases["validation"] > 0.05
    assert trained.profile["seconds"] <= took
    assert lines.said == [shown("net", trained.profile)]
    plain = run(Net(), config())
    assert plain.profile is None
    assert same(plain.module, trained.module)


def test_the_steps_hand_it_on_to_the_answer_of_a_run(tmp_path: Path) -> None:
    line = copied(tmp_path)
    changed = config_of(generator={**PARTS["generator"], "train": {**TRAIN, "steps": 4}})
    step = steps.STEPS["train-generator"]
    runtime = Runtime(line.store, device="cpu", progress=Lines(), profiles={})
    outcome = steps.perform(step, changed, line.inputs("train-generator"), runtime)
    answer = json.loads(json.dumps(outcome.to_json()))
    assert answer["profiles"]["generator"]["steps"] == 4
    assert runtime.profiles == {}, "each is told by its own step"
    assert "profiles" not in steps.perform(step, changed, line.inputs("train-generator"), runtime).to_json()
