"""`train-fusion` and `train-generator`: what they commit, what they go on from, what they say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact
from mmgen.batches import Loader, open_samples
from mmgen.beside import with_embeddings
from mmgen.codec_set import CodecSet
from mmgen.config import Config
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError
from mmgen.features import FeatureShard
from mmgen.generate import conditions
from mmgen.generators.joint_flow import embedding_key
from mmgen.generators.sampling import Sampling
from mmgen.identity import identity
from mmgen.maker import Maker, embed_slot, load_fusion, new_fusion
from mmgen.network_args import as_recorded, fusion_args
from mmgen.report.curves import read_curves
from mmgen.runtime import Runtime
from mmgen.steps import train_shards
from mmgen.train import fusion_still_good, generator_still_good, train_fusion, train_generator
from tests.foreign_models import folder
from tests.tiny_line import PARTS, TRAIN, Line, Lines, config_of, copied

BASELINE = {
    "kind": "concat_baseline",
    "target": "image",
    "encoders": {"text": {"kind": "bilstm_text", "width": 8}, "audio": {"kind": "cnn_mel", "width": 8}},
    "train": {"epochs": 2, "batch_size": 8, "optimizer": "adam", "weight_decay": 0, "schedule": "constant"},
}
Step = Callable[[Config, Any, Runtime], Artifact]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


@pytest.mark.parametrize("step", ["train-fusion", "train-generator"])
def test_a_model_says_how_it_is_made_and_what_it_saw(line: Line, step: str) -> None:
    made = line.made[step]
    assert {"kind", "args"} <= set(made.facts)
    assert made.facts["train_shards"] == train_shards(line.made["extract"])
    assert (made.facts["steps"], made.facts["skipped"]) == (3, 0)
    assert made.facts["validation"]["n"] == line.made["shard"].facts["splits"]["validation"]
    assert [curve.name for curve in read_curves(line.store, made) if curve.name in ("loss", "rate")] == ["loss", "rate"]
    assert not artifacts.damaged(line.store, made, rehash=True)
    assert line.made["train-generator"].name == "tiny"
    assert line.made["train-fusion"].name == "tiny-fusion"


@pytest.mark.parametrize(("step", "name"), [(train_fusion, "train-fusion"), (train_generator, "train-generator")])
def test_the_same_inputs_give_the_same_weights(line: Line, step: Step, name: str) -> None:
    again = step(line.config, line.inputs(name), line.runtime)
    assert again.file("weights").sha256 == line.made[name].file("weights").sha256
    assert again.fingerprint == line.made[name].fingerprint


def test_a_killed_training_goes_on(line: Line) -> None:
    class Dying(Lines):
        def bar(self, what: str, total: int | None) -> Any:
            return _DyingBar(2)

    config = config_of(generator={**PARTS["generator"], "train": {**TRAIN, "ema_decay": 0.9, "checkpoint_steps": 1}})
    inputs = line.inputs("train-generator")
    whole = train_generator(config, inputs, line.runtime)
    line.store.delete(f"{whole.folder}/manifest.json")
    line.store.delete(whole.file("weights").path)
    with pytest.raises(KeyboardInterrupt):
        train_generator(config, inputs, Runtime(line.store, device="cpu", progress=Dying()))
    assert line.store.walk("runs/checkpoints")
    again = train_generator(config, inputs, line.runtime)
    assert (again.version, again.file("weights").sha256) == (whole.version, whole.file("weights").sha256)
    assert not line.store.walk("runs/checkpoints")


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


def test_the_moving_average_is_what_is_committed(line: Line) -> None:
    plain = config_of(generator={**PARTS["generator"], "train": TRAIN})
    made = train_generator(plain, line.inputs("train-generator"), line.runtime)
    assert made.file("weights").sha256 != line.made["train-generator"].file("weights").sha256


def test_the_order_of_slots_in_a_configuration_is_not_identity(line: Line) -> None:
    codecs = CodecSet.load(line.store, line.made["fit"])
    spec = as_recorded("gated", fusion_args(line.config, codecs))
    assert list(spec["args"]["modalities"]) == sorted(line.config.slots)
    shown = new_fusion(spec).state_dict()
    stored = load_fusion(line.store, line.made["train-fusion"]).state_dict()
    assert {name: weight.shape for name, weight in shown.items()} == {name: w.shape for name, w in stored.items()}


def test_embeddings_beside_latents_are_those_of_the_slot_alone(line: Line) -> None:
    codecs, fusion = CodecSet.load(line.store, line.made["fit"]), load_fusion(line.store, line.made["train-fusion"])
    latents = open_samples(line.store, line.made["extract"], "latents", "validation")
    tensors = open_samples(line.store, line.made["extract"], "tensors", "validation")
    assert latents is not None
    assert tensors is not None
    found = with_embeddings(latents, tensors, fusion, codecs, torch.device("cpu"))
    batch = Loader(found, batch_size=len(found), shuffle=False).next()
    how = codecs.preprocesses["audio"]
    raw = Loader(tensors, batch_size=len(found), to_value={"audio": how.value}, slots=["audio"], shuffle=False).next()
    key = embedding_key("audio")
    assert torch.allclose(batch.values[key][:, 0], embed_slot(fusion, "audio", raw.values["audio"]), atol=1e-5)
    assert batch.masks[key].shape == (len(found), 1)


def test_what_conditions_sampling_is_what_conditioned_training(line: Line) -> None:
    maker = Maker.load(line.store, line.made["fit"], line.made["train-fusion"], line.made["train-generator"])
    features = line.made["extract"]
    tensors = open_samples(line.store, features, "tensors", "test")
    latents = open_samples(line.store, features, "latents", "test")
    assert tensors is not None
    assert latents is not None
    to_value = {slot: how.value for slot, how in maker.codecs.preprocesses.items()}
    given = Loader(tensors, batch_size=len(tensors), to_value=to_value, shuffle=False).next()
    beside = with_embeddings(latents, tensors, maker.fusion, maker.codecs, maker.device)
    wanted = Loader(beside, batch_size=len(tensors), shuffle=False).next()
    came = maker.conditions(given)
    assert set(came.values) == set(wanted.values)
    for slot in wanted.values:
        assert torch.allclose(came.values[slot], wanted.values[slot], atol=1e-4), slot
        assert torch.equal(came.masks[slot], wanted.masks[slot]), slot


def test_the_baseline_trains_end_to_end_and_reports_every_epoch(line: Line) -> None:
    config = config_of(generator=BASELINE)
    made = train_generator(config, line.inputs("train-generator"), line.runtime)
    epochs = [text for text in line.said if text.startswith("Epoch ")]
    assert [text.split(",")[0] for text in epochs] == ["Epoch 1", "Epoch 2"]
    assert all(", train loss: " in text and len(text.rsplit(".", 1)[1]) == 3 for text in epochs)
    reports = [text for text in line.said if " report\n" in text]
    assert [text.split()[0] for text in reports] == ["dev", "dev", "test"]
    assert all(word in reports[-1] for word in ("precision", "recall", "f1-score", "support", "macro avg", "weighted"))
    assert made.facts["label_report"]["n"] == line.made["shard"].facts["splits"]["test"]
    assert made.facts["feature_set"] == "tensors"
    maker = Maker.load(line.store, line.made["fit"], line.made["train-fusion"], made)
    assert maker.makes == ("image",)


def test_a_flow_says_nothing_about_epochs(line: Line) -> None:
    train_generator(line.config, line.inputs("train-generator"), line.runtime)
    assert not [text for text in line.said if text.startswith("Epoch")]


@pytest.mark.parametrize(
    ("check", "step", "part"),
    [(fusion_still_good, "train-fusion", "fusion"), (generator_still_good, "train-generator", "generator")],
)
def test_a_pinned_model_is_good_while_its_validation_loss_is(line: Line, check: Any, step: str, part: str) -> None:
    kept, inputs = line.made[step], line.inputs(step)
    config = config_of(**{part: {**PARTS[part], "pin": {"refit_below": 0.9}}})
    assert check(config, kept, inputs, line.runtime)[0]
    worse = {**kept.facts, "validation": {"loss": 0.5 * kept.facts["validation"]["loss"], "n": 1}}
    good, reason = check(config, Artifact(**{**kept.__dict__, "facts": worse}), inputs, line.runtime)
    assert not good
    assert "(0.50, refit_below 0.90)" in reason
    assert check(line.config, kept, inputs, line.runtime) == (True, "validation loss not looked at")


def test_missing_slots_are_normal(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the samples lose each slot; fusion and flow still train."""
    original = FeatureShard.open

    def thinned(path: Any) -> FeatureShard:
        shard = original(path)
        slots = {}
        for number, (slot, rows) in enumerate(shard.slots.items()):
            keep = [at % 3 != number for at in range(len(shard))]
            kept = [[rows.rows[rows.offsets[at]]] if keep[at] else [] for at in range(len(shard))]
            slots[slot] = type(rows).stack(kept, shard.layouts[slot])
        return FeatureShard(**{**shard.__dict__, "slots": slots})

    monkeypatch.setattr(FeatureShard, "open", thinned)
    for step, name in ((train_fusion, "train-fusion"), (train_generator, "train-generator")):
        made = step(line.config, line.inputs(name), line.runtime)
        assert made.facts["skipped"] == 0
        assert made.facts["loss"] == made.facts["loss"]


def test_a_generator_with_encoders_of_others_is_whole_without_their_folders(line: Line, tmp_path: Path) -> None:
    bert, clip = (shutil.copytree(folder(name), tmp_path / name) for name in ("bert", "clip"))
    encoders = {
        "text": {"kind": "transformers_text", "source": str(bert), "width": 8},
        "image": {"kind": "transformers_image", "source": str(clip), "trainable": "adapters"},
    }
    config = config_of(generator={**BASELINE, "target": "audio", "encoders": encoders})
    inputs = line.inputs("train-generator")
    first = identity("train-generator", config, inputs).fingerprint
    made = train_generator(config, inputs, line.runtime)
    assert made.fingerprint == first
    parameters = {name.split(".")[3] for name in load(line.store.read(made.file("weights").path))
                  if name.startswith("encode.encoders.")}  # fmt: skip
    assert parameters >= {"trunk", "project", "our_tokenizer", "their_tokenizer"}
    for each in (bert, clip):
        shutil.rmtree(each)
    maker = Maker.load(line.store, line.made["fit"], line.made["train-fusion"], made)
    batch = conditions(maker, [{"text": "a red square"}, {"text": "something else"}])
    sound = maker.make(batch, ("audio",), Sampling(1, 1.0), torch.Generator().manual_seed(0))["audio"]
    assert not torch.equal(sound[0], sound[1])
    with pytest.raises(ConfigError, match="no folder"):
        identity("train-generator", config, inputs)


def test_a_fusion_reads_through_encoders_of_others_and_starts_from_local_weights(line: Line, tmp_path: Path) -> None:
    bert = shutil.copytree(folder("bert"), tmp_path / "bert")
    torch.manual_seed(3)
    own = make_encoder("cnn_image", "image", (1, 16, 16), 8)
    save_file(own.state_dict(), tmp_path / "own.safetensors")
    encoders = {
        "text": {"kind": "transformers_text", "source": str(bert), "trainable": "head"}, "audio": "cnn_mel",
        "image": {"kind": "cnn_image", "weights": str(tmp_path / "own.safetensors")},
    }  # fmt: skip
    still = {**TRAIN, "learning_rate": 1e-9}
    config = config_of(fusion={"width": 8, "encoders": encoders, "train": still})
    inputs = line.inputs("train-fusion")
    made = train_fusion(config, inputs, line.runtime)
    tensors = load(line.store.read(made.file("weights").path))
    number = sorted(line.made["fit"].facts["slots"]).index("image")
    assert torch.allclose(tensors[f"encoders.{number}.project.weight"], own.project.weight, atol=1e-6)
    assert train_fusion(config_of(), inputs, line.runtime).fingerprint == line.made["train-fusion"].fingerprint
    assert identity("train-fusion", config, inputs).fingerprint == made.fingerprint
    shutil.rmtree(bert)
    (tmp_path / "own.safetensors").unlink()
    maker = Maker.load(line.store, line.made["fit"], made, line.made["train-generator"])
    e_BD = maker.embed(conditions(maker, [{"text": "a red square"}, {"text": "something else"}]))
    assert e_BD.shape == (2, 8)
    assert not torch.equal(e_BD[0], e_BD[1])


def test_a_mistake_in_an_encoders_settings_is_named() -> None:
    wrong = {"text": {"kind": "transformers_text", "sourc": "bert"}}
    with pytest.raises(ConfigError, match=r"fusion.encoders.text.*source.*missing|did you mean 'source'"):
        config_of(fusion={"encoders": wrong, "train": TRAIN})
