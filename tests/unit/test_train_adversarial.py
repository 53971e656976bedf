"""The steps with adversaries: what they ship, how they go on after a kill, and what else they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from mmgen import artifact as artifacts
from mmgen.batches import Batch
from mmgen.codec_set import CodecSet, weights_of
from mmgen.fit import fit
from mmgen.generators.sampling import Sampling
from mmgen.maker import Maker, new_generator
from mmgen.runtime import Runtime
from mmgen.train import generator_still_good, train_generator
from tests.tiny_line import PARTS, TRAIN, Line, Lines, config_of, copied

GENERATOR: dict[str, Any] = {
    "kind": "adversarial", "width": 16, "blocks": 1, "noise_width": 4,
    "train": {**TRAIN, "ema_decay": 0.9, "checkpoint_steps": 1},
}  # fmt: skip
TERMS = {"adversarial_weight": 0.1, "feature_weight": 0.1, "perceptual_weight": 0.1, "latent_noise": 0.1}


class DyingBar:
    """Interrupts at the third step."""

    def __init__(self) -> None:
        self.left = 2

    def __enter__(self) -> DyingBar:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= count
        if self.left < 0:
            raise KeyboardInterrupt


class Dying(Lines):
    """Interrupts the training of one thing."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def bar(self, what: str, total: int | None) -> Any:
        return DyingBar() if what == self.what else super().bar(what, total)


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def test_the_generator_that_is_committed_makes_slots_without_its_discriminator(line: Line) -> None:
    made = train_generator(config_of(generator=GENERATOR), line.inputs("train-generator"), line.runtime)
    weights = safetensors.torch.load(line.store.read(made.file("weights").path))
    assert set(weights) == set(new_generator(made.facts).state_dict())
    assert made.facts["parameters"] == sum(weight.numel() for weight in weights.values())
    maker = Maker.load(line.store, line.made["fit"], line.made["train-fusion"], made)
    nothing = Batch({}, {}, torch.full((2,), -1), torch.ones(2), ["", ""])
    found = maker.make(nothing, ("audio", "image", "text"), Sampling(1, 1.0), torch.Generator().manual_seed(0))
    assert {slot: len(value) for slot, value in found.items()} == {"audio": 2, "image": 2, "text": 2}


def test_its_training_goes_on_after_a_kill_with_its_discriminator(line: Line) -> None:
    config, inputs = config_of(generator=GENERATOR), line.inputs("train-generator")
    whole = train_generator(config, inputs, line.runtime)
    line.store.delete(f"{whole.folder}/manifest.json")
    line.store.delete(whole.file("weights").path)
    with pytest.raises(KeyboardInterrupt):
        train_generator(config, inputs, Runtime(line.store, device="cpu", progress=Dying("generator")))
    kept = next(iter(line.store.walk("runs/checkpoints")))
    assert any("|discriminator." in name for name in safetensors.torch.load(line.store.read(kept)))
    again = train_generator(config, inputs, line.runtime)
    assert (again.version, again.file("weights").sha256) == (whole.version, whole.file("weights").sha256)
    assert not line.store.walk("runs/checkpoints")


def test_a_pinned_one_is_judged_by_its_energy_score(line: Line) -> None:
    config = config_of(generator={**GENERATOR, "pin": {"refit_below": 0.9}})
    made = train_generator(config, line.inputs("train-generator"), line.runtime)
    assert 0 < made.facts["validation"]["loss"] < 2
    assert generator_still_good(config, made, line.inputs("train-generator"), line.runtime)[0]


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_codec_with_further_terms_is_refitted_alone_and_ships_without_its_adversary(
    line: Line, modality: str
) -> None:
    config = config_of(codecs={**PARTS["codecs"], modality: {**PARTS["codecs"][modality], **TERMS}})
    old, made = line.made["fit"], fit(config, {"dataset": line.made["shard"]}, line.runtime)
    role = f"codec:{modality}"
    before, after = old.facts["parts"], made.facts["parts"]
    assert [name for name in after if before[name]["fingerprint"] != after[name]["fingerprint"]] == [role]
    assert made.facts["codecs"] == old.facts["codecs"]
    assert made.file(role).sha256 != old.file(role).sha256
    codec = CodecSet.load(line.store, made).codecs[modality]  # type: ignore[index]
    assert weights_of(codec) == line.store.read(made.file(role).path)
    assert not artifacts.damaged(line.store, made, rehash=True)


def test_a_killed_fit_goes_on_with_the_codecs_adversary(line: Line) -> None:
    image = {**PARTS["codecs"]["image"], **TERMS, "train": {**TRAIN, "checkpoint_steps": 1}}
    config, inputs = config_of(codecs={**PARTS["codecs"], "image": image}), {"dataset": line.made["shard"]}
    with pytest.raises(KeyboardInterrupt):
        fit(config, inputs, Runtime(line.store, device="cpu", progress=Dying("codec:image")))
    assert line.store.walk("runs/checkpoints")
    resumed = fit(config, inputs, line.runtime)
    whole = fit(config, inputs, Runtime(line.store, device="cpu", refit=True))
    assert resumed.file("codec:image").sha256 == whole.file("codec:image").sha256
