"""`evaluate` on a tiny real line: what it commits, what it counts as not run, and what it refuses."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from data_schemas.scores import Scores
from mmgen import artifact as artifacts
from mmgen.artifact import Artifact, Reference
from mmgen.errors import IntegrityError
from mmgen.evaluate.config import FloorsConfig
from mmgen.evaluate.exam import read_exam
from mmgen.evaluate.scores import TOLD
from mmgen.evaluate.step import Court, evaluate, summary
from mmgen.maker import Maker
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.train import train_generator
from tests.tiny_line import PARTS, Line, config_of, copied, perform

OPEN = {"mean_coherence": 0.0, "each_coherence": 0.0, "joint_coherence": 0.0, "retrieval": 0.0}
SIX = sorted(itertools.permutations(("text", "image", "audio"), 2))
PAIRS = [("audio+image", "text"), ("audio+text", "image"), ("image+text", "audio")]


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def scored(line: Line, **settings: object) -> Artifact:
    given = {"max_samples": 8, "steps": 2, "floors": FloorsConfig(**OPEN), **settings}  # type: ignore[arg-type]
    settled = line.config.evaluate.model_copy(update=given)
    config = line.config.model_copy(update={"evaluate": settled})
    return evaluate(config, line.inputs("evaluate"), line.runtime)


def table(line: Line, made: Artifact) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(line.store.read(made.file("scores").path)))


def test_a_labelled_line_is_scored_in_every_direction_beside_its_ceilings(line: Line) -> None:
    made = scored(line)
    rows = table(line, made)
    Scores.validate(rows)
    coherent = rows.filter(pl.col("metric") == "coherence")
    assert sorted(coherent.select("given", "made").rows()) == sorted([*SIX, *PAIRS])
    assert {"mean_coherence", "joint_coherence", "judge_accuracy", "reconstruction_coherence", "text_exact"} <= set(
        rows["metric"]
    )
    assert rows.filter(pl.col("metric") == "retrieval").is_empty()
    assert set(coherent["n"]) == {3}
    # of the fusion model: three samples are too few for a retrieval or a calibration, not for its label head
    assert {"class_f1", "label_accuracy", "label_accuracy_noise_0.5", "label_accuracy_pgd_0.1"} <= set(rows["metric"])
    assert made.passed
    assert set(summary(made)) - {"recognised"} == {"mean_coherence", "joint_coherence"}
    assert all("judge_accuracy" in row for row in made.facts["scores"] if row["metric"] == "coherence")
    assert not artifacts.damaged(line.store, made, rehash=True)


def test_means_of_one_and_of_two_inputs_stand_apart_and_the_manifest_tells_both(line: Line) -> None:
    rows = {row["metric"]: row for row in table(line, scored(line)).to_dicts() if row["metric"].startswith("mean_")}
    each = table(line, scored(line)).filter(pl.col("metric") == "coherence")
    for metric, given in (("mean_coherence", SIX), ("mean_coherence_of_2", PAIRS)):
        mine = each.filter(pl.col("given").is_in([pair[0] for pair in given]))
        assert rows[metric]["value"] == pytest.approx(mine["value"].mean())
    assert {"mean_coherence_of_2"} <= {row["metric"] for row in scored(line).facts["scores"]}


def test_larger_sets_of_inputs_can_be_left_out(line: Line) -> None:
    rows = table(line, scored(line, larger_subsets=0)).filter(pl.col("metric") == "coherence")
    assert sorted(rows.select("given", "made").rows()) == SIX


def test_made_texts_are_scored_against_the_texts_of_their_sample(line: Line) -> None:
    rows = table(line, scored(line)).filter(pl.col("made") == "text")
    for metric in ("bleu", "chrf", "rouge_l", "exact_match"):
        assert set(rows.filter(pl.col("metric") == metric)["given"]) == {"audio", "image", "audio+image"}
    assert "version:" in rows.filter(pl.col("metric") == "chrf")["judge"][0]


def test_its_files_are_grids_of_pictures_and_examples_of_all_directions(line: Line) -> None:
    made = scored(line)
    assert {Path(entry.path).name for entry in made.by_role("grid")} == {"grid-audio-image.png", "grid-text-image.png"}
    sides = {(entry.facts["example"], entry.facts["side"]) for entry in made.by_role("example")}
    # three samples of each direction, two of each pair of inputs, two of the joint
    assert len({number for number, _ in sides}) == 6 * 3 + 3 * 2 + 2
    assert len(sides) == 2 * (6 * 3 + 3 * 2) + 2
    assert {entry.facts["side"] for entry in made.by_role("nearest")} == set()


def test_the_same_line_gives_the_same_scores_and_files_again(line: Line) -> None:
    first, second = scored(line), scored(line)
    assert [entry.sha256 for entry in first.files] == [entry.sha256 for entry in second.files]


def test_a_gate_that_says_no_commits_its_reasons(line: Line) -> None:
    made = scored(line, floors=FloorsConfig(mean_coherence=1.0, each_coherence=1.0, joint_coherence=1.0))
    assert not made.passed
    assert any(reason.startswith("mean_coherence") for reason in made.facts["gate"])


def test_what_the_recogniser_could_not_hear_is_counted_as_not_run(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmgen.evaluate.recogniser.find_spec", lambda name: None)
    made = scored(line)
    assert made.facts["not_run"] == {"recognised": "not run: not installed"}
    assert "recognised" not in set(table(line, made)["metric"])


def test_a_slot_of_another_size_than_its_judge_looks_at_is_said_to_be_unjudged(line: Line) -> None:
    codecs = line.made["fit"]
    thumb = {**codecs.config["slots"]["image"], "size_px": 8}
    more = replace(
        codecs,
        config={**codecs.config, "slots": {**codecs.config["slots"], "thumb": thumb}},
        facts={**codecs.facts, "slots": {**codecs.facts["slots"], "thumb": "image"}},
    )
    court = Court.of(line.store, more, torch.device("cpu"))
    assert court.not_judged == {"coherence of thumb": "not run: the image judge looks at slots of another size"}
    assert set(court.panel.slots) == {"text", "image", "audio"}


def test_with_the_recogniser_its_score_on_real_clips_stands_beside(line: Line) -> None:
    pytest.importorskip("pocketsphinx")
    made = scored(line)
    assert made.facts["not_run"] == {}
    rows = {row["metric"]: row for row in made.facts["scores"]}
    assert rows["recognised"]["judge_accuracy"] == rows["recognised_real"]["value"]
    assert (rows["recognised"]["given"], rows["recognised"]["made"]) == ("text", "audio")


def test_a_generator_of_one_slot_is_scored_in_the_directions_to_it(line: Line) -> None:
    baseline = {
        "kind": "concat_baseline", "target": "image",
        "encoders": {"text": {"kind": "bilstm_text", "width": 8}, "image": {"kind": "cnn_image", "width": 8}},
        "train": {"epochs": 1, "batch_size": 8, "optimizer": "adam", "schedule": "constant"},
    }  # fmt: skip
    config = config_of(generator=baseline)
    inputs = line.inputs("evaluate")
    inputs["generator"] = train_generator(config, line.inputs("train-generator"), line.runtime)
    made = evaluate(config, inputs, line.runtime)
    rows = table(line, made).filter(pl.col("metric") == "coherence")
    assert rows.select("given", "made").rows() == [("text", "image")]
    assert "joint_coherence" not in set(table(line, made)["metric"])


def test_the_frozen_samples_come_back_as_values_and_are_checked(line: Line) -> None:
    codecs = Maker.load(line.store, *line.inputs("evaluate").values()).codecs
    reference = Reference.parse(line.made["fit"].facts["evalset"])
    evalset = artifacts.load(line.store, "evalset", reference.name, reference.version or 0)
    exam = read_exam(line.store, evalset, codecs, "test", "cpu")
    assert exam is not None
    keys = json.loads(line.store.read(evalset.file("keys").path))["test"]
    assert exam.real.keys == [row["key"] for row in keys]
    texts = [data.decode() for data in exam.files["text"] if data is not None]
    # the caption says the class
    assert [text.rsplit(" ", 1)[-1] for text in texts] == [codecs.labels[label] for label in exam.real.labels_B]
    assert read_exam(line.store, evalset, codecs, "heldout", "cpu") is None


def test_an_evaluation_set_that_was_changed_is_refused(line: Line) -> None:
    reference = Reference.parse(line.made["fit"].facts["evalset"])
    evalset = artifacts.load(line.store, "evalset", reference.name, reference.version or 0)
    keys = evalset.file("keys").path
    line.store.write(keys, line.store.read(keys).replace(b'"digest"', b'"digesT"', 1))
    with pytest.raises(IntegrityError, match="evalset"):
        scored(line)


def test_a_table_without_labels_and_with_a_held_out_split_has_its_own_scores_for_both(tmp_path: Path) -> None:
    text_image = {"text": "caption", "image": "image", "audio": None, "label": None}
    slots = {slot: PARTS["slots"][slot] for slot in ("text", "image")}
    shares = {"train": 0.4, "validation": 0.1, "test": 0.5}
    config = config_of(
        source=text_image, slots=slots,
        validate={**PARTS["validate"], "splits": shares, "holdout": {"column": "voice", "values": ["v1", "v2"]}},
        evaluate={"max_samples": 12, "steps": 2, "floors": OPEN | {"kernel_ratio": 1e6}},
    )  # fmt: skip
    runtime = Runtime(Store(tmp_path / "store"), device="cpu")
    names = ("ingest", "validate", "shard", "fit", "extract", "train-fusion", "train-generator", "evaluate")
    unlabelled = perform(config, runtime, *names)
    made = unlabelled.made["evaluate"]
    metrics = set(table(unlabelled, made)["metric"])
    assert {"mean_retrieval", "retrieval", "retrieval_real", "kernel_distance", "kernel_floor"} <= metrics
    assert not metrics & {"coherence", "joint_coherence", "judge_accuracy"}
    assert made.facts["not_run"] == {}
    held_out = pl.read_parquet(io.BytesIO(runtime.store.read(made.file("scores:heldout").path)))
    assert "retrieval" in set(held_out["metric"])
    told = [metric for metric in held_out["metric"] if metric in TOLD]
    assert [row["metric"] for row in made.facts["heldout"]] == told
    # without judges, the fusion model's features are what distances are taken among
    assert set(held_out.filter(pl.col("metric") == "coverage")["judge"]) == {"fusion"}
