"""The captioner, tiny, from raw rows to captions: a picture's colour is named, and a caption goes on from its words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import cli
from flows.endings import ending
from flows.screen import _generate, show_run
from flows.summary import summarise
from mmgen import steps
from mmgen.batches import open_samples
from mmgen.beside import with_ids
from mmgen.codecs.text import PAD
from mmgen.errors import ConfigError
from mmgen.generate import Model, conditions, load_package, save_package
from mmgen.generators.autoregressive import IDS_SUFFIX, ids_key
from mmgen.runtime import Runtime
from tests import colour_line
from tests.colour_line import COLOURS

# what runs, what came of each step, and the folder of the pictures
Made = tuple[Runtime, dict[str, steps.Outcome], Path]
GENERATOR: dict[str, Any] = {
    "width": 32, "heads": 2, "depth": 1, "word_dropout": 0.0,
    "train": {"steps": 150, "batch_size": 32, "learning_rate": 5e-3, "warmup_steps": 10, "ema_decay": None},
}  # fmt: skip


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The colour line with the captioner's recipe, up to its scores."""
    table, runtime, _ = colour_line.copied(tmp_path_factory.mktemp("captioner"))
    config = colour_line.config_of(table, recipe="captioner", generator=GENERATOR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = colour_line.run(config, runtime, "evaluate")
    torch.set_num_threads(threads)
    return runtime, made, table.parent


@pytest.fixture(scope="module")
def model(line: Made, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """What is shipped: the model from its package."""
    runtime, made, _ = line
    parts = [made[step].artifact for step in ("fit", "train-fusion", "train-generator")]
    return load_package(save_package(runtime.store, *parts, tmp_path_factory.mktemp("package")), device="cpu")


def pictures(folder: Path) -> list[Path]:
    """One of each colour, in the order of COLOURS."""
    return [folder / f"{number}.png" for number in range(len(COLOURS))]


def test_pictures_are_captioned(line: Made, model: Model) -> None:
    _, made, folder = line
    assert made["train-generator"].artifact.facts["kind"] == "autoregressive"
    said = model.generate(image=pictures(folder), temperature=0.0, guidance=1.0)["text"]
    right = sum(text == f"a {colour} square" for text, colour in zip(said, COLOURS, strict=True))
    assert right >= 8, said
    scores = {(row["metric"], row["given"], row["made"]) for row in made["evaluate"].artifact.facts["scores"]}
    assert {given for metric, given, _ in scores if metric == "coherence"} == {"image"}
    assert {made for metric, _, made in scores if metric == "coherence"} == {"text"}


def test_a_caption_goes_on_from_what_it_begins_with(line: Made, model: Model) -> None:
    folder = line[2]
    for how in ({"temperature": 0.0}, {"beams": 3}, {"temperature": 1.0, "top_k": 5, "top_p": 0.9}):
        said = model.generate(image=pictures(folder), prefix={"text": "a blue"}, guidance=1.0, **how)["text"]
        assert all(text.startswith("a blue") for text in said), said
    each = [f"a {colour}" for colour in COLOURS]
    said = model.generate(image=pictures(folder), prefix={"text": each}, beams=2, num=2)["text"]
    assert said == [f"{begun} square" for begun in each for _ in range(2)]


def test_more_samples_of_one_picture_differ_as_the_temperature_says(line: Made, model: Model) -> None:
    picture = pictures(line[2])[2]
    same, other = (model.generate(image=picture, num=20, temperature=t, guidance=1.0)["text"] for t in (0.0, 4.0))
    assert len(set(same)) == 1
    assert len(set(other)) > 1
    again = model.generate(image=picture, num=20, temperature=4.0, guidance=1.0)["text"]
    assert again == other


def test_likelier_texts_are_those_that_fit(line: Made, model: Model) -> None:
    maker, how = model.maker, model.maker.codecs.preprocesses["text"]
    given = conditions(maker, [{"image": path} for path in pictures(line[2])])
    texts = [f"a {colour} square" for colour in COLOURS]
    ids = how.value(torch.stack([torch.from_numpy(how.compact(text.encode(), "")) for text in texts]))
    right, wrong = (maker.log_probability(given, "text", each).sum(1) for each in (ids, ids.roll(1, dims=0)))
    assert float((right > wrong).float().mean()) >= 0.8


def test_the_command_completes_a_text(line: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime, _, folder = line
    wanted = ["generate", "colours", "--to", "text", "--image", str(folder / "4.png"), "--prefix", "text=a green"]
    asked = ["--temperature", "0", "--store", str(runtime.store.uri), "--out", str(tmp_path / "out"), "--json"]
    assert ending(cli.app, [*wanted, *asked]) == 0
    files = json.loads(capsys.readouterr().out.splitlines()[-1])["files"]
    assert Path(files[0]).read_text().startswith("a green")


def test_the_command_that_a_run_ends_with_works_for_a_model_that_makes_texts_alone(
    line: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime, made, _ = line
    outcomes = [made[step].to_json() for step in ("train-generator",)]
    show_run(summarise(runtime.store, outcomes) | {"log": None}, str(runtime.store.uri))
    (said,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("more")]
    program, *words = shlex.split(said.removeprefix("more"))
    assert program == "mmgen"
    assert ending(cli.app, [*words, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*-text.txt"))) == 4


def test_the_command_asks_for_what_is_made_from_what_is_not() -> None:
    slots = {"answer": "text", "image": "image", "question": "text"}
    model = {
        "name": "vqa",
        "version": 1,
        "aliases": [],
        "slots": slots,
        "example": "red",
        "makes": ["question", "answer"],
    }
    said = shlex.split(_generate(model, "s"))
    assert said[3:7] == ["--slot", "answer=red", "--to", "question"]


def test_ids_are_drawn_with_the_latents_of_the_same_text(
    line: Made,
) -> None:
    runtime, made, _ = line
    features = made["extract"].artifact
    latents, tensors = (open_samples(runtime.store, features, kind, "train") for kind in ("latents", "tensors"))
    assert latents is not None
    assert tensors is not None
    beside = with_ids(latents, tensors, ["text"])
    assert beside.drawn_with == {ids_key("text"): "text"}
    assert beside.layouts["text" + IDS_SUFFIX].dtype == "int32"
    (longest,) = beside.layouts[ids_key("text")].shape
    ends = []
    for one, other in zip(beside.shards, tensors.shards, strict=True):
        assert one.keys == other.keys
        ids, whole = one.slots[ids_key("text")].rows, other.slots["text"].rows
        assert (ids == whole[:, :longest]).all()
        assert (whole[:, longest:] == PAD).all()
        ends.append((ids[:, -1] != PAD).any())
    # nothing but padding is cut off, and all of it
    assert any(ends)
    assert longest < tensors.layouts["text"].shape[0]


def test_what_cannot_be_begun_is_refused(line: Made, model: Model) -> None:
    picture = pictures(line[2])[0]
    with pytest.raises(ConfigError, match="wanted text slots that are made"):
        model.generate(image=picture, to="text", prefix={"image": "a"})
    with pytest.raises(ConfigError, match="one for each of 1, came 2"):
        model.generate(image=picture, prefix={"text": ["a", "b"]})
    with pytest.raises(ConfigError, match="at most 9 tokens"):
        model.generate(image=picture, prefix={"text": "words that are by far too many for so short a caption"})
    with pytest.raises(ConfigError, match="makes text; asked for image"):
        model.generate(text="a red square", to="image")
    with pytest.raises(ConfigError, match="top_p: wanted more than 0"):
        model.generate(image=picture, top_p=2.0)
