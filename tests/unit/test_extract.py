"""`extract`: one feature file per media shard and set, made once, adopted ever after."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmgen import artifact as artifacts
from mmgen.artifact import FileEntry
from mmgen.codec_set import CodecSet
from mmgen.errors import IntegrityError
from mmgen.extract import SETS, alternatives, extract, latent_plan, read_media, tensor_plan
from mmgen.features import FeatureShard
from mmgen.identity import identity
from mmgen.runtime import Runtime, map_local
from mmgen.steps import train_shards
from mmgen.tars import key_of
from tests.tiny_line import Line, config_of, copied, perform


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


class Counting:
    """A mapper that counts what it is given."""

    def __init__(self) -> None:
        self.work: list[tuple[str, int]] = []

    def __call__(self, what: str, function: Any, arguments: Any, workers: int) -> list[Any]:
        self.work.append((what, len(arguments)))
        return map_local(what, function, arguments, workers)


def entries(line: Line, feature_set: str) -> list[FileEntry]:
    return [entry for entry in line.made["extract"].by_role("features") if entry.facts["set"] == feature_set]


def opened(line: Line, entry: FileEntry) -> FeatureShard:
    return FeatureShard.open(line.store.local_path(entry.path))


@pytest.mark.parametrize("feature_set", SETS)
def test_every_media_shard_has_its_features_with_the_same_keys(line: Line, feature_set: str) -> None:
    shards = line.made["shard"].by_role("shard")
    found = entries(line, feature_set)
    assert [entry.facts["digest"] for entry in found] == [shard.facts["digest"] for shard in shards]
    for shard, entry in zip(shards, found, strict=True):
        with read_media(line.store, shard.path) as reader:
            assert opened(line, entry).keys == [key_of(safe) for safe in reader.keys()]  # noqa: SIM118
        assert entry.path == f"features/{entry.facts['fingerprint'][:16]}/{shard.facts['digest']}.arrow"


def test_tensors_are_the_preprocessed_members(line: Line) -> None:
    shard, entry = line.made["shard"].by_role("shard")[0], entries(line, "tensors")[0]
    codecs = CodecSet.load(line.store, line.made["fit"])
    found = opened(line, entry)
    with read_media(line.store, shard.path) as reader:
        safe = reader.keys()[0]
        members = reader.sample(safe)
    wanted = codecs.preprocesses["image"].compact(members["png"], "x")
    assert np.array_equal(found.slots["image"].rows[0], wanted)
    text = codecs.texts("text", torch.from_numpy(found.slots["text"].rows[:1].astype(np.int64)))
    assert text == [members["txt"].decode()]


def test_latents_are_standardised_over_the_training_rows(line: Line) -> None:
    train = [entry for entry in entries(line, "latents") if entry.facts["split"] == "train"]
    rows = [opened(line, entry).slots["image"].rows for entry in train]
    flat = np.concatenate(rows).reshape(-1, rows[0].shape[-1])
    assert np.abs(flat.mean(axis=0)).max() < 0.02
    assert np.abs(flat.std(axis=0) - 1).max() < 0.02


def test_latents_decode_to_what_the_codec_reconstructs(line: Line) -> None:
    codecs = CodecSet.load(line.store, line.made["fit"])
    z_BTD = torch.from_numpy(opened(line, entries(line, "latents")[0]).slots["image"].rows[:2].copy())
    compact = torch.from_numpy(opened(line, entries(line, "tensors")[0]).slots["image"].rows[:2].copy())
    value = codecs.preprocesses["image"].value(compact)
    codec: Any = codecs.codecs["image"]
    assert torch.allclose(codecs.decode("image", z_BTD), codec.decode(codec.encode(value)), atol=1e-4)


def test_what_is_there_is_adopted_and_only_what_is_missing_is_made(line: Line) -> None:
    counting = Counting()
    runtime = Runtime(line.store, device="cpu", map=counting)
    again = extract(line.config, line.inputs("extract"), runtime)
    assert counting.work == []
    assert again.files == line.made["extract"].files
    lost = entries(line, "latents")[1]
    line.store.delete(lost.path)
    made = extract(line.config, line.inputs("extract"), runtime)
    assert counting.work == [("extract latents", 1)]
    assert {entry.path for entry in made.files} == {entry.path for entry in again.files}


def test_a_file_of_a_died_run_is_adopted_if_whole_and_made_again_if_not(line: Line) -> None:
    """Without any manifest that names them, files speak for themselves."""
    for entry in line.made["extract"].files[:2]:
        line.store.write(entry.path, line.store.read(entry.path)[:-9])
    folder = line.made["extract"].folder
    line.store.delete(f"{folder}/manifest.json")
    counting = Counting()
    extract(line.config, line.inputs("extract"), Runtime(line.store, device="cpu", map=counting))
    assert counting.work == [("extract tensors", 2)]


def test_a_file_of_another_media_shard_is_not_adopted(line: Line) -> None:
    first, second = entries(line, "tensors")[:2]
    line.store.delete(f"{line.made['extract'].folder}/manifest.json")
    line.store.write(first.path, line.store.read(second.path))
    counting = Counting()
    extract(line.config, line.inputs("extract"), Runtime(line.store, device="cpu", map=counting))
    assert counting.work == [("extract tensors", 1)]


def test_new_rows_make_features_of_the_new_shards_alone(line: Line) -> None:
    counting = Counting()
    runtime = Runtime(line.store, device="cpu", map=counting)
    grown = perform(config_of(36), runtime, "ingest", "validate", "shard")
    counting.work.clear()
    inputs = {"dataset": grown.made["shard"], "codecs": line.made["fit"]}
    features = extract(grown.config, inputs, runtime)
    new = len(grown.made["shard"].by_role("shard")) - len(line.made["shard"].by_role("shard"))
    assert new > 0
    assert counting.work == [("extract tensors", new), ("extract latents", new)]
    assert train_shards(features) == train_shards(grown.made["shard"])


def test_workers_and_device_are_not_identity(line: Line) -> None:
    line.store.delete(f"{line.made['extract'].folder}/manifest.json")
    before = {entry.path: entry.sha256 for entry in line.made["extract"].files}
    for path in before:
        line.store.delete(path)
    made = extract(line.config, line.inputs("extract"), Runtime(line.store, workers=2, device="cpu"))
    assert made.fingerprint == line.made["extract"].fingerprint
    assert {entry.path for entry in made.files} == set(before)
    tensors = [entry for entry in made.files if entry.facts["set"] == "tensors"]
    assert all(before[entry.path] == entry.sha256 for entry in tensors)


def test_a_media_shard_that_was_changed_is_an_integrity_error(line: Line) -> None:
    shard = line.made["shard"].by_role("shard")[0]
    data = bytearray(line.store.read(shard.path))
    for entry in entries(line, "tensors"):
        line.store.delete(entry.path)
    line.store.delete(f"{line.made['extract'].folder}/manifest.json")
    data[600] ^= 1
    line.store.write(shard.path, bytes(data))
    with pytest.raises(IntegrityError):
        extract(line.config, line.inputs("extract"), Runtime(line.store, device="cpu"))


def test_tensors_do_not_depend_on_the_codecs_and_latents_do(line: Line) -> None:
    fit = line.made["fit"]
    parts = {**fit.facts["parts"], "codec:image": {**fit.facts["parts"]["codec:image"], "fingerprint": "other"}}
    other = artifacts.Artifact(**{**fit.__dict__, "facts": {**fit.facts, "parts": parts}})
    assert latent_plan(other).fingerprint != latent_plan(fit).fingerprint
    words = fit.by_role("tokenizer")
    mine = tensor_plan(fit.config["slots"], words)
    assert tensor_plan(fit.config["slots"], []).fingerprint != mine.fingerprint
    renamed = {slot: {**settings, "column": "elsewhere"} for slot, settings in fit.config["slots"].items()}
    assert tensor_plan(renamed, words).fingerprint == mine.fingerprint


def test_the_identity_of_the_step_is_the_recorded_one(line: Line) -> None:
    assert line.made["extract"].fingerprint == identity("extract", line.config, line.inputs("extract")).fingerprint


def test_members_of_further_slots_are_found_by_their_names() -> None:
    out = io.BytesIO()
    Image.new("L", (2, 2)).save(out, "PNG")
    members = {"json": b"{}", "png": b"p", "source.png": b"s", "source.wav": b"w", "txt": b"t"}
    about = {"texts": {"text": ["a", "b"], "question": ["q"]}}
    assert alternatives(members, "image", "image", about) == [b"p"]
    assert alternatives(members, "source", "image", about) == [b"s"]
    assert alternatives(members, "source", "audio", about) == [b"w"]
    assert alternatives(members, "audio", "audio", about) == []
    assert alternatives(members, "text", "text", about) == [b"a", b"b"]
    assert alternatives(members, "question", "text", about) == [b"q"]
    assert alternatives(members, "answer", "text", about) == []
