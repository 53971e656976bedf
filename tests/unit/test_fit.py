"""`fit`: what is learned once and then pinned, and why it is learned again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact
from mmgen.codec_set import CodecSet, codec_names, read_slots
from mmgen.fit import fit, still_good
from mmgen.fit_judges import load_judges
from mmgen.runtime import Runtime
from tests.tiny_line import PARTS, TRAIN, Line, Lines, config_of, copied, perform

CODECS = ("codec:audio", "codec:image", "codec:text")


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def changed(part: str, **settings: Any) -> dict[str, Any]:
    """The tiny codecs with one part's settings changed."""
    return {"codecs": {**PARTS["codecs"], part: {**PARTS["codecs"][part], **settings}}}


def refitted(old: Artifact, new: Artifact) -> list[str]:
    """Names of the parts that are not the old ones."""
    before, after = old.facts["parts"], new.facts["parts"]
    return sorted(name for name in after if before[name]["fingerprint"] != after[name]["fingerprint"])


def again(line: Line, rows: int = 30, runtime: Runtime | None = None, **parts: Any) -> Artifact:
    """`fit` of a changed configuration over the same data, or over more of it."""
    config = config_of(rows, **parts)
    runtime = runtime or line.runtime
    data = line.made["shard"]
    if rows != 30:
        data = perform(config, line.runtime, "ingest", "validate", "shard").made["shard"]
    return fit(config, {"dataset": data}, runtime)


def test_it_commits_codecs_judges_and_the_evaluation_set(line: Line) -> None:
    made = line.made["fit"]
    assert set(made.facts["parts"]) == {"tokenizer", *CODECS}
    assert {role for role in CODECS if made.file(role)} == set(CODECS)
    assert made.facts["slots"] == {"text": "text", "image": "image", "audio": "audio"}
    assert made.facts["labels"] == ["0", "1", "2", "3", "4"]
    assert {slot: score["n"] for slot, score in made.facts["reconstruction"].items()} == dict.fromkeys(
        made.facts["slots"], line.made["shard"].facts["splits"]["validation"]
    )
    assert all({"score", "judged", "judged_real"} <= set(each) for each in made.facts["reconstruction"].values())
    for role in ("judges", "evalset"):
        named = artifacts.Reference.parse(made.facts[role])
        found = artifacts.load(line.store, named.kind, named.name, named.version or 0)  # type: ignore[arg-type]
        assert not artifacts.damaged(line.store, found, rehash=True)
    assert not artifacts.damaged(line.store, made, rehash=True)


def test_checkpoints_are_gone_once_it_is_committed(line: Line) -> None:
    assert not [path for path in line.store.walk("") if path.startswith("runs/checkpoints")]


def test_the_autoregressive_text_codec_takes_the_place_of_the_parallel_one(line: Line) -> None:
    made = again(line, **changed("text", kind="autoregressive", word_dropout=0.2))
    assert refitted(line.made["fit"], made) == ["codec:text"]
    spec = made.facts["codecs"]["text"]
    assert (spec["kind"], spec["args"]["word_dropout"]) == ("autoregressive", 0.2)
    codecs = CodecSet.load(line.store, made)
    ids = codecs.value("text", b"sample 3 of class 3")
    back = codecs.decode("text", codecs.encode("text", ids))
    assert back.shape == ids.shape
    assert (back[:, 0] == ids[:, 0]).all()
    assert made.facts["reconstruction"]["text"]["score"] >= 0


def test_a_change_of_one_codec_refits_that_one_alone(line: Line) -> None:
    made = again(line, **changed("image", depth=2))
    assert refitted(line.made["fit"], made) == ["codec:image"]
    assert made.facts["parts"]["codec:image"]["why"] == "its configuration changed"
    assert made.file("codec:audio") == line.made["fit"].file("codec:audio")
    assert made.facts["judges"] == line.made["fit"].facts["judges"]
    assert made.facts["evalset"] == line.made["fit"].facts["evalset"]


def test_a_new_vocabulary_refits_what_reads_text(line: Line) -> None:
    made = again(line, **changed("text", vocab_size=264))
    assert refitted(line.made["fit"], made) == ["codec:text", "tokenizer"]
    assert made.facts["judges"] != line.made["fit"].facts["judges"]
    assert made.facts["evalset"] != line.made["fit"].facts["evalset"]


def test_refit_makes_everything_anew(line: Line) -> None:
    runtime = Runtime(line.store, device="cpu", refit=True)
    made = again(line, runtime=runtime)
    assert {part["why"] for part in made.facts["parts"].values()} == {"--refit"}
    assert made.facts["judges"] != line.made["fit"].facts["judges"]
    assert made.facts["evalset"] != line.made["fit"].facts["evalset"]


def test_a_lost_file_is_fitted_again(line: Line) -> None:
    line.store.delete(line.made["fit"].file("codec:audio").path)
    made = again(line)
    assert not artifacts.damaged(line.store, made)


def test_little_growth_adopts_and_much_growth_refits_codecs_but_neither_judges_nor_evaluation_set(line: Line) -> None:
    old = line.made["fit"]
    little = again(line, 36)
    assert refitted(old, little) == []
    assert little.facts["train_shards"] == old.facts["train_shards"]
    much = again(line, 60)
    assert refitted(old, much) == list(CODECS)
    assert "new training rows" in much.facts["parts"]["codec:image"]["why"]
    assert (much.facts["judges"], much.facts["evalset"]) == (old.facts["judges"], old.facts["evalset"])
    assert sum(much.facts["train_shards"].values()) > sum(old.facts["train_shards"].values())


@pytest.mark.parametrize(("floor", "good"), [(0.0, True), (1.0, False), (None, True)])
def test_poor_reconstruction_of_new_rows_unpins(line: Line, floor: float | None, good: bool) -> None:
    codecs = {**PARTS["codecs"], "pin": {"refit_below": floor, "refit_growth": None}}
    grown = perform(config_of(60, codecs=codecs), line.runtime, "ingest", "validate", "shard")
    found, reason = still_good(grown.config, line.made["fit"], {"dataset": grown.made["shard"]}, line.runtime)
    assert found == good
    assert "refit_below" in reason
    made = fit(grown.config, {"dataset": grown.made["shard"]}, line.runtime)
    assert refitted(line.made["fit"], made) == ([] if good else list(CODECS))


def test_a_killed_fit_goes_on_and_ends_with_the_same_weights(line: Line) -> None:
    class Dying(Lines):
        def bar(self, what: str, total: int | None) -> Any:
            if what == "judge:audio":
                raise KeyboardInterrupt
            return super().bar(what, total)

    store = line.store
    wanted = {entry.role: entry.sha256 for entry in line.made["fit"].files}
    for kind in ("codecs", "judges", "evalsets"):
        shutil.rmtree(store.full(kind))
    with pytest.raises(KeyboardInterrupt):
        fit(line.config, line.inputs("fit"), Runtime(store, device="cpu", progress=Dying()))
    assert artifacts.latest(store, "codecs", "tiny") is None
    assert store.walk("runs/checkpoints")
    made = fit(line.config, line.inputs("fit"), Runtime(store, device="cpu"))
    assert {entry.role: entry.sha256 for entry in made.files} == wanted
    assert made.version == 1
    assert not store.walk("runs/checkpoints")


@pytest.mark.parametrize("part", ["image", "text"])
def test_a_codec_can_be_taken_from_its_best_look_at_the_validation_rows(line: Line, part: str) -> None:
    # a rate at which the loss only rises: the first look is the best, and patience ends the training
    train = {**TRAIN, "steps": 8, "learning_rate": 3.0, "schedule": "constant", "max_grad_norm": None}
    watched = {**train, "validate_steps": 1, "take": "best", "patience": 2}
    made = again(line, **changed(part, train=watched))
    path = next(entry.path for entry in made.by_role("history") if entry.path.endswith(f"/codec-{part}.jsonl"))
    rows = [json.loads(row) for row in line.store.read(path).decode().splitlines()]
    looks = [row["validation"] for row in rows if "validation" in row]
    assert len(looks) == made.facts["parts"][f"codec:{part}"]["steps"] == looks.index(min(looks)) + 3 < 8
    # the look does not disturb what is learned: as many steps as the best look took give the same weights
    best = again(line, **changed(part, train={**train, "steps": looks.index(min(looks)) + 1}))
    assert made.file(f"codec:{part}").sha256 == best.file(f"codec:{part}").sha256


def test_without_labels_judges_exist_and_hold_none(line: Line) -> None:
    source = {"label": None}
    config = config_of(30, source=source)
    grown = perform(config, line.runtime, "ingest", "validate", "shard", "fit")
    judges = artifacts.latest(line.store, "judges", "tiny")
    assert judges is not None
    assert grown.made["fit"].facts["labels"] is None
    assert (judges.facts["judges"], judges.facts["accuracy"]) == ({}, {})
    assert load_judges(line.store, judges, "cpu") == {}
    assert all("judged" not in each for each in grown.made["fit"].facts["reconstruction"].values())


def test_more_classes_than_judges_take_count_as_no_labels(line: Line) -> None:
    made = again(line, judges={**PARTS["judges"], "max_classes": 4})
    assert made.facts["labels"] is None


def test_judges_say_their_accuracy_on_real_test_rows(line: Line) -> None:
    judges = artifacts.latest(line.store, "judges", "tiny")
    assert judges is not None
    tests = line.made["shard"].facts["splits"]["test"]
    assert {slot: score["n"] for slot, score in judges.facts["accuracy"].items()} == dict.fromkeys(
        ("audio", "image", "text"), tests
    )
    assert set(load_judges(line.store, judges, "cpu")) == {"audio", "image", "text"}


def test_slots_of_one_modality_share_a_codec_where_their_values_agree() -> None:
    image = {"modality": "image", "size_px": 16, "channels": 1}
    slots = {
        "detail": {**image, "size_px": 32}, "image": image, "cut": {**image, "crop": "random", "column": "y"},
        "larger": {**image, "size_px": 32, "resize": "pad"}, "text": {"modality": "text"},
        "question": {"modality": "text", "max_tokens": 64},
    }  # fmt: skip
    assert codec_names(read_slots(slots)) == {
        "cut": "image", "image": "image", "detail": "image-detail", "larger": "image-detail",
        "question": "text-question", "text": "text",
    }  # fmt: skip


def test_a_further_slot_shares_the_codec_of_its_modality(line: Line) -> None:
    slots = {**PARTS["slots"], "voice": {"modality": "text", "max_tokens": 32, "column": "voice"}}
    config = config_of(30, slots=slots, judges={**PARTS["judges"], "train": TRAIN}, source={"meta": []})
    made = perform(config, line.runtime, "ingest", "validate", "shard", "fit", "extract").made
    assert set(made["fit"].facts["codecs"]) == {"text", "image", "audio"}
    assert set(made["fit"].facts["scale"]) == {"text", "voice", "image", "audio"}
    assert set(made["extract"].facts["slots"]) == {"text", "voice", "image", "audio"}
