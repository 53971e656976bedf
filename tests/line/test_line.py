"""Raw pairs to a registered generator, on few rows and few steps: what runs, what is skipped, what comes out."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmgen import artifact, config, promotions, steps
from mmgen.runtime import Runtime
from mmgen.sources import spoken_digits
from mmgen.store import Store
from mmgen.tars import TarReader

ROWS = 80
FEW = {"steps": 6, "batch_size": 16}
QUICK = {
    "codecs": {"image": {"train": FEW}, "audio": {"train": FEW}, "text": {"train": FEW}},
    "judges": {"train": FEW},
    "fusion": {"train": FEW},
    "generator": {"kind": "joint_flow", "train": FEW | {"ema_decay": 0.9}},
    "evaluate": {
        "max_samples": 20,
        "steps": 2,
        "floors": {"mean_coherence": 0, "each_coherence": 0, "joint_coherence": 0, "retrieval": 0},
    },
}


def settings(folder: Path, **more):
    return config.build(
        {
            "name": "digits",
            "recipe": "spoken_digits",
            "source": {"path": str(folder / "pairs.csv")},
            "shard": {"max_samples": 40},
            "validate": {"holdout": {"column": "voice", "values": ["m6"]}},
            **QUICK,
            **more,
        }
    )


def run(configuration, store: Store) -> dict[str, steps.Outcome]:
    return {outcome.step: outcome for outcome in steps.run(configuration, Runtime(store))}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    spoken_digits.build(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def first(rows, tmp_path_factory):
    """The line run once: (store, outcomes). Tests that change the store work on a copy."""
    store = Store(tmp_path_factory.mktemp("line") / "store")
    return store, run(settings(rows), store)


@pytest.fixture
def copied(first, tmp_path) -> Store:
    shutil.copytree(first[0].base, tmp_path / "store")
    return Store(tmp_path / "store")


def test_the_line_ends_in_a_promoted_model(first):
    store, outcomes = first
    assert all(outcome.ran for outcome in outcomes.values())
    assert tuple(outcomes) == steps.NAMES
    counts = outcomes["shard"].artifact.facts["counts"]
    assert counts["inputs"] == ROWS == counts["kept"] + counts["quarantined"] + counts["dropped"]
    promotion = outcomes["register"].artifact
    assert promotion.facts["alias"] == "champion"
    assert outcomes["evaluate"].artifact.passed
    metrics = {row["metric"] for row in outcomes["evaluate"].artifact.facts["scores"]}
    assert {"mean_coherence", "joint_coherence", "judge_accuracy", "kernel_distance"} <= metrics
    made = artifact.lineage(store, promotion)
    assert {each.kind for each in made.values()} >= {"model", "codecs", "features", "dataset", "verdicts", "staging"}


def test_every_artifact_verifies_byte_by_byte(first):
    store, outcomes = first
    for outcome in outcomes.values():
        assert artifact.damaged(store, outcome.artifact, rehash=True) == []


def test_held_out_voices_are_never_trained_on(first):
    store, outcomes = first
    voices: dict[str, set[str]] = {}
    for entry in outcomes["shard"].artifact.by_role("shard"):
        with TarReader.open(store.local_path(entry.path)) as reader:
            about = [json.loads(reader.read(member.name)) for member in reader.index.members if member.suffix == "json"]
        voices.setdefault(entry.facts["split"], set()).update(each["meta"]["voice"] for each in about)
    assert voices["heldout"] == {"m6"}
    assert "m6" not in voices["train"] | voices["validation"] | voices["test"]


def test_running_again_does_nothing_and_says_why(first, rows):
    store, outcomes = first
    before = {path: store.size(path) for path in store.walk()}
    again = run(settings(rows), store)
    assert not any(outcome.ran for outcome in again.values())
    assert {name: outcome.artifact.ref for name, outcome in again.items()} == {
        name: outcome.artifact.ref for name, outcome in outcomes.items()
    }
    assert all("unchanged" in outcome.why for outcome in again.values())
    assert {path: store.size(path) for path in store.walk()} == before


def test_changing_only_the_generators_settings_redoes_only_what_comes_after(copied, rows):
    other = settings(rows, generator={"kind": "joint_flow", "width": 64, "train": FEW})
    planned = {line.step: line.run for line in steps.plan(other, Runtime(copied))}
    outcomes = run(other, copied)
    ran = [name for name, outcome in outcomes.items() if outcome.ran]
    assert ran == ["train-generator", "evaluate", "register"]
    assert [name for name, would in planned.items() if would] == ran
    assert promotions.resolve("digits@champion", copied) == outcomes["train-generator"].artifact
    back = run(settings(rows), copied)
    assert [name for name, outcome in back.items() if outcome.ran] == ["register"]
    assert "went to" in back["register"].why
    assert promotions.resolve("digits@champion", copied) == back["train-generator"].artifact
    assert not any(outcome.ran for outcome in run(settings(rows), copied).values())


def test_new_rows_make_new_shards_only_and_keep_what_is_fitted(copied, rows, tmp_path, first):
    more = tmp_path / "more"
    spoken_digits.build(more, ROWS + 10)
    outcomes = run(settings(more), copied)
    assert [name for name, outcome in outcomes.items() if outcome.ran] == ["ingest", "validate", "shard", "extract"]
    assert outcomes["fit"].why.startswith("pinned: codecs:digits@1")
    old = {entry.path for entry in first[1]["shard"].artifact.by_role("shard")}
    new = {entry.path for entry in outcomes["shard"].artifact.by_role("shard")}
    assert old < new
    assert outcomes["shard"].artifact.facts["counts"]["inputs"] == ROWS + 10


def test_the_promoted_model_makes_any_slot_from_any_other(first):
    import mmgen

    store, _ = first
    model = mmgen.load("digits@champion", store=store.uri)
    made = model.generate(text=["the digit 3"], to=("image", "audio"), num=2, seed=1, steps=2)
    assert len(made["image"]) == len(made["audio"]) == 2
    picture = Image.open(io.BytesIO(made["image"][0]))
    assert picture.size == (32, 32)
    sound, rate = soundfile.read(io.BytesIO(made["audio"][0]))
    assert (rate, len(sound)) == (16_000, 16_000)
    assert np.isfinite(sound).all()
    back = model.generate(image=[made["image"][0]], to=("text",), seed=1, steps=2)
    assert isinstance(back["text"][0], str)
    again = model.generate(text=["the digit 3"], to=("image", "audio"), num=2, seed=1, steps=2)
    assert again["image"] == made["image"]
    assert again["audio"] == made["audio"]


@pytest.fixture(scope="module")
def captions(rows, tmp_path_factory) -> Path:
    """A user's table of key, text and image alone."""
    path = rows / "captions.csv"
    with open(rows / "pairs.csv", newline="") as source, open(path, "w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["id", "what", "picture"])
        writer.writerows([row["key"], row["caption"], row["image"]] for row in csv.DictReader(source))
    return path


def test_a_table_of_key_text_and_image_ends_in_a_gate_too(captions, tmp_path):
    source = {"kind": "table", "path": str(captions), "key": "id", "text": "what", "image": "picture"}
    configuration = config.build({"name": "pictures", "source": source, **QUICK})
    outcomes = run(configuration, Store(tmp_path / "store"))
    scores = outcomes["evaluate"].artifact
    metrics = {row["metric"] for row in scores.facts["scores"]}
    assert {"retrieval", "kernel_distance"} <= metrics
    assert scores.facts["gate"] == []
    assert outcomes["register"].artifact.facts["alias"] == "champion"


def test_a_gate_that_says_no_keeps_the_model_from_its_alias(copied, rows):
    floors = {"mean_coherence": 1.0, "each_coherence": 1.0, "joint_coherence": 1.0}
    strict = settings(rows, evaluate=QUICK["evaluate"] | {"floors": floors})
    outcomes = run(strict, copied)
    assert not outcomes["evaluate"].artifact.passed
    assert outcomes["register"].artifact.facts["alias"] is None


def test_refit_below_makes_codecs_anew_when_new_data_is_not_reconstructed(copied, tmp_path):
    more = tmp_path / "more"
    spoken_digits.build(more, ROWS + 10)
    picky = settings(more, codecs=QUICK["codecs"] | {"pin": {"refit_below": 1.0}})
    fit = next(
        outcome for outcome in steps.run(picky, replace(Runtime(copied)), steps.NAMES[:4]) if outcome.step == "fit"
    )
    assert fit.ran
    assert fit.why.startswith("refit:")


def test_a_folder_of_pictures_and_sidecars_ends_in_a_model_of_the_slots_it_has(rows, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(rows / "pairs.csv", newline="") as source:
        for row in csv.DictReader(source):
            shutil.copy(rows / row["image"], folder / f"{row['key']}.png")
            (folder / f"{row['key']}.txt").write_text(row["caption"])
    configuration = config.build({"name": "folder", "source": {"kind": "folder", "path": str(folder)}, **QUICK})
    outcomes = run(configuration, Store(tmp_path / "store"))
    assert set(outcomes["fit"].artifact.facts["slots"]) == {"text", "image"}
    assert outcomes["register"].artifact.facts["alias"] == "champion"
