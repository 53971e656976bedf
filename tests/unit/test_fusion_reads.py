"""What a fusion model learns from by configuration: cached latents, cached embeddings, sets of labels, numbers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from mmgen.artifact import Artifact
from mmgen.batches import Loader, open_samples
from mmgen.codec_set import CodecSet
from mmgen.config import Config
from mmgen.errors import ConfigError
from mmgen.evaluate.step import evaluate
from mmgen.extract import extract
from mmgen.features import FeatureShard
from mmgen.fusion.config import FusionConfig
from mmgen.fusion.fusion import Fusion
from mmgen.generate import load_package, save_package
from mmgen.identity import config_part
from mmgen.maker import Maker, load_fusion
from mmgen.train import fusion_still_good, train_fusion, train_generator
from tests.tiny_line import PARTS, Line, config_of, copied

ENCODERS = {
    "text": {"kind": "bilstm_text", "width": 12},
    "image": {"kind": "cnn_image", "width": 10},
    "audio": {"kind": "cnn_mel", "width": 8},
}


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def fusion_of(**settings: Any) -> Config:
    return config_of(fusion={**PARTS["fusion"], **settings}, extract={"encoders": ENCODERS})


def metrics(line: Line, scored: Artifact) -> set[str]:
    table = pl.read_parquet(io.BytesIO(line.store.read(scored.file("scores").path)))
    return set(table["metric"].to_list())


def batches(line: Line, features: Artifact, name: Any) -> Loader:
    samples = open_samples(line.store, features, name, "validation")
    assert samples is not None
    codecs = CodecSet.load(line.store, line.made["fit"])
    to_value = {slot: how.value for slot, how in codecs.preprocesses.items()} if name == "tensors" else None
    return Loader(samples, batch_size=len(samples), to_value=to_value, shuffle=False)


@pytest.mark.parametrize("kind", ["latents", "embeddings"])
def test_what_was_cached_is_what_values_are_made_into(line: Line, kind: str, tmp_path: Path) -> None:
    config = fusion_of(features=kind)
    inputs = line.inputs("train-fusion")
    inputs["features"] = extract(config, line.inputs("extract"), line.runtime)
    made = train_fusion(config, inputs, line.runtime)
    assert made.facts["feature_set"] == kind
    network = load_fusion(line.store, made)
    assert isinstance(network, Fusion)
    tensors, cached = (batches(line, inputs["features"], name).next() for name in ("tensors", kind))
    with torch.no_grad():
        torch.testing.assert_close(network(tensors), network.read(cached), atol=1e-4, rtol=1e-3)
    assert fusion_still_good(config, made, inputs, line.runtime) == (True, "validation loss not looked at")
    # what is conditioned on it, and scored with it, knows nothing of how it reads
    given = {**line.inputs("train-generator"), "fusion": made}
    generator = train_generator(config, given, line.runtime)
    maker = Maker.load(line.store, line.made["fit"], made, generator)
    with torch.no_grad():
        torch.testing.assert_close(maker.embed(tensors), network(tensors))
    shipped = load_package(save_package(line.store, line.made["fit"], made, generator, tmp_path / "package"), "cpu")
    with torch.no_grad():
        torch.testing.assert_close(shipped.maker.embed(tensors), network(tensors))
    scored = evaluate(config, {**line.inputs("evaluate"), "fusion": made, "generator": generator}, line.runtime)
    assert "label_accuracy" in metrics(line, scored)


def test_frozen_encoders_do_not_learn(line: Line) -> None:
    config = fusion_of(features="embeddings")
    inputs = line.inputs("train-fusion")
    inputs["features"] = extract(config, line.inputs("extract"), line.runtime)
    longer = fusion_of(features="embeddings", train={"steps": 6, "batch_size": 8})
    weights = [
        load_fusion(line.store, train_fusion(each, inputs, line.runtime)).state_dict() for each in (config, longer)
    ]
    fronts = {name for name in weights[0] if name.startswith("cached.fronts")}
    assert fronts
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in fronts)
    assert not torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])


def test_embeddings_that_were_not_made_are_asked_for(line: Line) -> None:
    with pytest.raises(ConfigError, match=r"fusion.features: embeddings wants those of extract.encoders"):
        train_fusion(fusion_of(features="embeddings"), line.inputs("train-fusion"), line.runtime)
    config = config_of(
        fusion={**PARTS["fusion"], "features": "embeddings"}, extract={"encoders": {"text": ENCODERS["text"]}}
    )
    inputs = line.inputs("train-fusion")
    inputs["features"] = extract(config, line.inputs("extract"), line.runtime)
    with pytest.raises(ConfigError, match="wanted cached features of the slot 'audio', there are those of text"):
        train_fusion(config, inputs, line.runtime)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("multi_label", {"micro_f1", "macro_f1", "weighted_f1", "classes", "n"}),
     ("regression", {"mean_absolute_error", "r2", "n"})],
)  # fmt: skip
def test_labels_that_are_sets_or_numbers(
    line: Line, kind: str, wanted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FeatureShard.open

    def relabelled(path: Any) -> FeatureShard:
        shard = original(path)
        labels = [
            f"{number % 2}|{2 + number % 3}" if kind == "multi_label" else f"{number / 4}"
            for number in range(len(shard))
        ]
        return FeatureShard(**{**shard.__dict__, "labels": labels})

    monkeypatch.setattr(FeatureShard, "open", relabelled)
    config = fusion_of(labels={"kind": kind})
    made = train_fusion(config, line.inputs("train-fusion"), line.runtime)
    assert set(made.facts["label_report"]) == wanted
    assert made.facts["label_report"]["n"] == line.made["shard"].facts["splits"]["test"]
    network = load_fusion(line.store, made)
    assert isinstance(network, Fusion)
    assert network.target is not None
    assert network.classes == (5 if kind == "multi_label" else 1)
    assert made.facts["validation"]["loss"] > 0
    scored = metrics(line, evaluate(config, {**line.inputs("evaluate"), "fusion": made}, line.runtime))
    mine = {"label_accuracy", "class_f1"} if kind == "multi_label" else {"mean_absolute_error"}
    assert scored & {"label_accuracy", "class_f1", "mean_absolute_error", "calibration_error"} == mine
    assert {f"{name}_pgd_0.1" for name in mine - {"class_f1"}} <= scored


def test_settings_that_are_not_used_are_no_part_of_what_is_made() -> None:
    before = {"kind", "width", "encoders", "augment", "label_weight", "contrastive_weight", "train"}
    assert set(config_part("train-fusion", config_of())["fusion"]) == before
    assert set(config_part("train-fusion", fusion_of(hide=0.3, rank=8))["fusion"]) == before | {"hide", "rank"}
    assert set(FusionConfig().model_dump(mode="json")) == before | {"pin"}


@pytest.mark.parametrize("features", ["tensors", "latents"])
def test_slots_can_meet_with_all_their_tokens(line: Line, features: str) -> None:
    config = fusion_of(kind="cross_attention", tokens=True, features=features, bottlenecks=2, depth=1)
    made = train_fusion(config, line.inputs("train-fusion"), line.runtime)
    assert made.facts["args"]["tokens"] is True
    network = load_fusion(line.store, made)
    assert isinstance(network, Fusion)
    tensors, cached = (batches(line, line.made["extract"], name).next() for name in ("tensors", features))
    with torch.no_grad():
        torch.testing.assert_close(network(tensors), network.read(cached), atol=1e-4, rtol=1e-3)
    given = {**line.inputs("train-generator"), "fusion": made}
    generator = train_generator(config, given, line.runtime)
    scored = evaluate(config, {**line.inputs("evaluate"), "fusion": made, "generator": generator}, line.runtime)
    assert {"label_accuracy", "label_accuracy_pgd_0.1", "mean_coherence"} <= metrics(line, scored)


def test_every_way_to_fuse_trains_on_the_line(line: Line) -> None:
    losses = []
    for kind in ("low_rank", "cross_attention"):
        made = train_fusion(fusion_of(kind=kind, rank=2, bottlenecks=2, depth=1, hide=0.2,
                                      adversarial={"steps": 1}), line.inputs("train-fusion"), line.runtime)  # fmt: skip
        assert made.facts["kind"] == kind
        assert made.facts["args"]["adversarial"]["steps"] == 1
        losses.append(made.facts["loss"])
        assert load_fusion(line.store, made) is not None
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
