"""Golden values of the steps from `fit` to `train-generator`: the same inputs give the same results on every machine.

A failure means that a step now makes something else: raise its literal in mmgen.identity.STEP_VERSIONS, so that what
older versions made is not taken for it, and write the new value here. Floating point is compared at 1e-3, in float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mmgen import artifact as artifacts
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.features import FeatureShard
from mmgen.identity import STEP_VERSIONS
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.training import loop
from tests.tiny_line import Line, config_of, perform

FIT: dict[str, Any] = {
    "version": 1,
    "tokenizer": "7cdeacf499453888",
    "keys": ["s0015", "s0029", "s0004"],
    "losses": {"codec-text": 5.60217, "codec-image": 0.43041, "codec-audio": 0.45944},
}
EXTRACT: dict[str, Any] = {
    "version": 2,
    "image": "59ffcaeea7ed951f",
    "text": "0a5e0cc5a144a175",
    "audio": [-2.5616, -2.6349, -2.5596],
}
FUSION: dict[str, Any] = {"version": 1, "losses": {"fusion": 4.9497}}
GENERATOR: dict[str, Any] = {"version": 1, "losses": {"generator": 2.01592}}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The tiny line in float32, whatever this machine has instructions for."""
    runtime = Runtime(Store(tmp_path_factory.mktemp("golden")), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "bf16_works", lambda device: False)
        yield perform(config_of(), runtime, *steps.NAMES[: steps.NAMES.index("train-generator") + 1])


def losses(line: Line, made: Artifact) -> dict[str, float]:
    """History file → its mean loss."""
    found = {}
    for entry in made.by_role("history"):
        name = entry.path.rsplit("/", 1)[1].removesuffix(".jsonl")
        found[name] = json.loads(line.store.read(entry.path).splitlines()[-1])["loss"]
    return found


def bytes_of(line: Line, slot: str) -> str:
    """Digest of a slot's tensors over all media shards."""
    digest = hashlib.sha256()
    for entry in line.made["extract"].by_role("features"):
        if entry.facts["set"] == "tensors":
            shard = FeatureShard.open(line.store.local_path(entry.path))
            digest.update(np.ascontiguousarray(shard.slots[slot].rows).tobytes())
    return digest.hexdigest()[:16]


def audio_levels(line: Line) -> list[float]:
    """Mean log-mel of each sample of the first media shard; floating point, so not by bytes."""
    rows = FeatureShard.open(line.store.local_path(line.made["extract"].files[0].path)).slots["audio"].rows
    return [float(level) for level in rows.astype(np.float64).mean(axis=(1, 2))[:3]]


def test_golden_fit(line: Line) -> None:
    assert STEP_VERSIONS["fit"] == FIT["version"]
    made = line.made["fit"]
    evalset = artifacts.latest(line.store, "evalset", "tiny")
    assert evalset is not None
    keys = json.loads(line.store.read(evalset.file("keys").path))
    found = {"tokenizer": made.file("tokenizer").sha256[:16], "keys": [row["key"] for row in keys["test"]]}
    assert found == {name: FIT[name] for name in found}
    assert losses(line, made) == pytest.approx(FIT["losses"], rel=1e-3)


def test_golden_extract(line: Line) -> None:
    assert STEP_VERSIONS["extract"] == EXTRACT["version"]
    found = {slot: bytes_of(line, slot) for slot in ("image", "text")}
    assert found == {slot: EXTRACT[slot] for slot in found}
    assert audio_levels(line) == pytest.approx(EXTRACT["audio"], rel=1e-3)


def test_golden_train_fusion(line: Line) -> None:
    assert STEP_VERSIONS["train-fusion"] == FUSION["version"]
    assert losses(line, line.made["train-fusion"]) == pytest.approx(FUSION["losses"], rel=1e-3)


def test_golden_train_generator(line: Line) -> None:
    assert STEP_VERSIONS["train-generator"] == GENERATOR["version"]
    assert losses(line, line.made["train-generator"]) == pytest.approx(GENERATOR["losses"], rel=1e-3)
