"""Heads of their own on the frozen trunk of a fusion model that knows ten colours."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact
from mmgen.errors import ConfigError, UnknownReference
from mmgen.fusion.config import HeadConfig
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.train_head import find_trunk, load_head, train_head
from tests.colour_line import COLOURS, PARTS, config_of, run, write_source
from tests.data_sources import read_table, write_table
from tests.tiny_line import TRAIN

_FOLDER = tempfile.TemporaryDirectory(prefix="mmgen-heads-")
TRAINING = HeadConfig().train.model_copy(update={"steps": 200, "batch_size": 40})
WARM = {"red", "yellow", "orange", "purple"}


def about(colour: str) -> dict[str, str]:
    """Further columns of a row: tags of its caption's words, a set of classes, a number."""
    kinds = [name for name, named in (("warm", WARM), ("plain", {"black", "white", "grey"})) if colour in named]
    return {"voice": "O B-COLOUR B-SHAPE", "group": "|".join(kinds), "split": str(sum(COLOURS[colour]) / 10)}


@functools.cache
def _original() -> Path:
    folder = Path(_FOLDER.name)
    table = write_source(folder / "source")
    rows = read_table(table)
    write_table(table, [{**row, **about(row["label"])} for row in rows])
    source = {
        "kind": "table", "path": str(table), "key": "id", "text": "caption", "image": "image", "label": "label",
        "meta": ["voice", "group", "split"],
    }  # fmt: skip
    generator = {"kind": "joint_flow", "width": 16, "blocks": 1, "train": TRAIN}
    encoders = {"image": "cnn_image", "text": "transformer_text"}
    fusion = {
        "width": 32, "augment": False, "encoders": encoders,
        "train": {"steps": 80, "batch_size": 40, "learning_rate": 1e-2, "warmup_steps": 5},
    }  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    slots = {**PARTS["slots"], "text": {"modality": "text", "max_tokens": 20}}
    config = config_of(table, source=source, fusion=fusion, generator=generator, slots=slots)
    run(config, Runtime(Store(folder / "store"), device="cpu"), "train-generator")
    torch.set_num_threads(threads)
    return folder / "store"


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    shutil.copytree(_original(), tmp_path / "store")
    return Runtime(Store(tmp_path / "store"), device="cpu")


def made_by(runtime: Runtime, **settings: Any) -> tuple[Artifact, dict[tuple[str, str], float]]:
    made = train_head("colours-fusion", HeadConfig(train=TRAINING, **settings), runtime)
    return made, {(row["metric"], row["judge"]): row["value"] for row in made.facts["scores"]}


def test_classes_of_the_data_set(runtime: Runtime) -> None:
    made, found = made_by(runtime)
    assert (made.name, made.step, made.facts["labels"]) == ("colours-classification", "head", sorted(COLOURS))
    assert found["label_accuracy", "head"] > 0.9
    assert ("class_f1", "head:red") in found
    assert made.inputs["trunk"].ref == "model:colours-fusion@1"
    assert not artifacts.damaged(runtime.store, made, rehash=True)
    again, _ = made_by(runtime)
    assert again.file("weights").sha256 == made.file("weights").sha256


def test_the_trunk_stays_as_it_is_and_the_head_is_loaded_beside_it(runtime: Runtime) -> None:
    trunk = artifacts.load(runtime.store, "model", "colours-fusion", 1)
    before = trunk.file("weights").sha256
    made, _ = made_by(runtime)
    fusion, head = load_head(runtime.store, made)
    assert artifacts.load(runtime.store, "model", "colours-fusion", 1).file("weights").sha256 == before
    assert not any(weight.requires_grad for module in (fusion, head) for weight in module.parameters())
    assert head(torch.zeros(2, fusion.width)).shape == (2, len(COLOURS))


def test_sets_of_classes_in_another_column(runtime: Runtime) -> None:
    made, found = made_by(runtime, kind="multi_label", column="group")
    assert (made.name, made.facts["labels"]) == ("colours-multi-label-group", ["plain", "warm"])
    assert found["class_f1", "head:warm"] > 0.9


def test_numbers_in_their_own_unit(runtime: Runtime) -> None:
    _, found = made_by(runtime, kind="regression", column="split")
    # always saying their mean would be wrong by 18
    assert found["mean_absolute_error", "head"] < 10


def test_tags_of_words_are_scored_as_spans(runtime: Runtime) -> None:
    made, found = made_by(runtime, kind="sequence_tagging", column="voice")
    assert made.facts["labels"] == ["B-COLOUR", "B-SHAPE", "O"]
    assert found["label_accuracy", "head"] > 0.95
    assert found["class_f1", "head:COLOUR"] > 0.95
    assert {judge for _, judge in found} == {"head", "head:COLOUR", "head:SHAPE"}


def test_a_generator_leads_to_its_trunk(runtime: Runtime) -> None:
    assert find_trunk(runtime.store, "colours").ref == "model:colours-fusion@1"
    with pytest.raises(UnknownReference, match="wanted a fusion model"):
        find_trunk(runtime.store, "dataset:colours")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"column": "voices"}, "did you mean 'voice'"),
        ({"kind": "regression", "column": "voice"}, "regression wants a finite number, came 'O B-COLOUR"),
        ({"kind": "sequence_tagging", "column": "group"}, "wanted a tag for each of the 3 words"),
        ({"kind": "sequence_tagging", "column": "voice", "slot": "image"}, "text slot"),
    ],
)
def test_what_cannot_be_learned_is_refused(runtime: Runtime, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made_by(runtime, **settings)
