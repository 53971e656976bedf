"""Pretraining of a fusion's text encoders within `train-fusion`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmgen.batches import open_samples
from mmgen.codec_set import CodecSet
from mmgen.errors import ConfigError
from mmgen.identity import identity
from mmgen.maker import load_fusion, new_fusion
from mmgen.network_args import as_recorded, fusion_args
from mmgen.preprocess.text import TextPreprocess
from mmgen.pretrain import Texts, pretrain_text
from mmgen.report.curves import read_curves
from mmgen.runtime import Runtime, Silent
from mmgen.train import train_fusion
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import seed_of
from mmgen.training.parallel import World
from tests.tiny_line import PARTS, Line, Lines, config_of, copied

PRETRAIN = {"steps": 80, "batch_size": 16, "learning_rate": 1e-2}
# a fusion that does not move: what is committed is what it started from
STILL = {"steps": 1, "batch_size": 8, "learning_rate": 1e-12, "weight_decay": 0}
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def fusion(**more: Any) -> dict[str, Any]:
    return {"fusion": {**PARTS["fusion"], **more}}


def text_weights(network: Any) -> dict[str, torch.Tensor]:
    """Of the encoder of `text`, the last of the tiny line's slots."""
    assert list(network.modalities) == ["audio", "image", "text"]
    found: dict[str, torch.Tensor] = network.encoders[2].state_dict()
    return found


def test_the_fusion_starts_from_an_encoder_that_names_more_hidden_tokens(line: Line) -> None:
    config = config_of(**fusion(train=STILL, pretrain=PRETRAIN))
    made = train_fusion(config, line.inputs("train-fusion"), line.runtime)
    record = made.facts["pretrain"]
    assert record["steps"] == 80
    assert record["accuracy"] > record["accuracy_before"] + 0.3, record
    assert {"fusion.loss", "pretrain.loss", "pretrain.accuracy"} <= {c.name for c in read_curves(line.store, made)}
    assert not line.store.walk("runs/checkpoints")
    # the same pretraining by hand
    codecs = CodecSet.load(line.store, line.made["fit"])
    seed = seed_of(config.seed, *b"fusion")
    torch.manual_seed(seed)
    network = new_fusion(as_recorded("gated", fusion_args(config, codecs)))
    untrained = {name: weight.clone() for name, weight in text_weights(network).items()}
    how = codecs.preprocesses["text"]
    train = open_samples(line.store, line.made["extract"], "tensors", "train")
    assert isinstance(how, TextPreprocess)
    assert train is not None
    texts = Texts(["text"], how, train, None)
    checkpoint = Checkpoint(line.store, "by hand")
    settings = TrainConfig.model_validate(PRETRAIN)
    pretrain_text(network, texts, settings, seed_of(seed, *b"pretrain"), ALONE, checkpoint, Silent())
    stored = text_weights(load_fusion(line.store, made))
    for name, weight in text_weights(network).items():
        torch.testing.assert_close(stored[name], weight, msg=name)
    assert not torch.allclose(stored["embed.weight"], untrained["embed.weight"], atol=1e-3)


def test_a_killed_pretraining_goes_on(line: Line) -> None:
    class Dying(Lines):
        def bar(self, what: str, total: int | None) -> Any:
            return _DyingBar(12) if what == "pretrain" else Silent().bar(what, total)

    config = config_of(**fusion(pretrain={**PRETRAIN, "steps": 20, "checkpoint_steps": 5}))
    inputs = line.inputs("train-fusion")
    whole = train_fusion(config, inputs, line.runtime)
    with pytest.raises(KeyboardInterrupt):
        train_fusion(config, inputs, Runtime(line.store, device="cpu", progress=Dying()))
    assert line.store.walk("runs/checkpoints")
    again = train_fusion(config, inputs, line.runtime)
    assert again.file("weights").sha256 == whole.file("weights").sha256
    assert again.facts["pretrain"] == whole.facts["pretrain"]


class _DyingBar:
    """Interrupts at a step."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __enter__(self) -> _DyingBar:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= count
        if self.left < 0:
            raise KeyboardInterrupt


def test_off_it_is_no_part_of_a_fusions_identity_and_on_it_is(line: Line) -> None:
    inputs = line.inputs("train-fusion")
    off, on, more = (
        identity("train-fusion", config_of(**fusion(pretrain=pretrain)), inputs)
        for pretrain in (None, PRETRAIN, {**PRETRAIN, "steps": 81})
    )
    assert "pretrain" not in off.config["fusion"]
    assert off.fingerprint == line.made["train-fusion"].fingerprint
    assert "pretrain" not in line.made["train-fusion"].facts
    assert len({off.fingerprint, on.fingerprint, more.fingerprint}) == 3


def test_encoders_of_several_text_slots_start_alike(line: Line) -> None:
    codecs = CodecSet.load(line.store, line.made["fit"])
    args = fusion_args(line.config, codecs)
    args["modalities"]["title"], args["shapes"]["title"] = "text", args["shapes"]["text"]
    network: Any = new_fusion(as_recorded("gated", args))
    train = open_samples(line.store, line.made["extract"], "tensors", "train")
    how = codecs.preprocesses["text"]
    assert train is not None
    assert isinstance(how, TextPreprocess)
    settings = TrainConfig(steps=2, batch_size=8)
    pretrain_text(network, Texts(["text"], how, train, None), settings, 0, ALONE, Checkpoint(line.store, "x"), Silent())
    one, other = network.encoders[2].state_dict(), network.encoders[3].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_encoder_that_says_nothing_of_tokens_is_refused(line: Line) -> None:
    network: Any = load_fusion(line.store, line.made["train-fusion"])
    network.encoders[2] = network.encoders[1]
    train = open_samples(line.store, line.made["extract"], "tensors", "train")
    how = CodecSet.load(line.store, line.made["fit"]).preprocesses["text"]
    assert train is not None
    assert isinstance(how, TextPreprocess)
    texts, settings = Texts(["text"], how, train, None), TrainConfig(steps=1)
    with pytest.raises(ConfigError, match=r"fusion\.pretrain: wanted transformer_text or bilstm_text .* 'text'"):
        pretrain_text(network, texts, settings, 0, ALONE, Checkpoint(line.store, "x"), Silent())
