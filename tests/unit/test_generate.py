"""Any slots to any slots, and the package that a model is shipped as."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import mmgen
from mmgen.artifact import Draft
from mmgen.asking import Asked
from mmgen.errors import ConfigError, IntegrityError, SourceError, UnknownReference
from mmgen.generate import Model, load_package, package_files, rows, save_package
from tests.data_sources import picture, sound
from tests.tiny_line import Line, copied


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return copied(tmp_path_factory.mktemp("generate"))


@pytest.fixture(scope="module")
def package(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = line.made
    folder = tmp_path_factory.mktemp("shipped") / "package"
    return save_package(line.store, made["fit"], made["train-fusion"], made["train-generator"], folder)


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return mmgen.load(package, device="cpu")


def test_text_makes_pictures_and_sounds_in_their_formats(model: Model) -> None:
    made = model.generate(text=["one", "two"], to=("image", "audio"), num=2, steps=2, seed=0)
    assert len(made) == 4
    assert [(row["row"], row["sample"]) for row in made.rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for data in made["image"]:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (16, 16), "L")
    for data in made["audio"]:
        samples, rate = soundfile.read(io.BytesIO(data))
        assert (rate, len(samples)) == (8000, 2000)
        assert np.isfinite(samples).all()


def test_every_slot_goes_to_every_other(model: Model) -> None:
    given = {"text": "sample 3 of class 3", "image": picture(3), "audio": sound(3)}
    for slot, value in given.items():
        for to in given:
            if to != slot:
                made = model.generate(slots={slot: value}, to=to, steps=2)
                assert isinstance(made[to][0], str if to == "text" else bytes)
    both = model.generate(text="x", image=picture(1), steps=2)
    assert list(both.extensions) == ["audio"]
    joint = model.generate(num=3, steps=2)
    assert (len(joint), set(joint.extensions)) == (3, {"text", "image", "audio"})


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(model: Model) -> None:
    first, again, other = (
        model.generate(text="one", to=("image", "audio", "text")[:2], steps=3, seed=seed, num=2) for seed in (5, 5, 6)
    )
    assert first.rows == again.rows
    assert first.rows != other.rows
    assert first["image"][0] != first["image"][1]


def test_the_condition_and_the_guidance_matter(model: Model) -> None:
    one, two = (model.generate(image=picture(seed), to="text", steps=3) for seed in (1, 2))
    plain, guided = (model.generate(image=picture(1), to="audio", steps=3, guidance=scale) for scale in (1.0, 5.0))
    assert plain["audio"] != guided["audio"]
    assert len(one) == len(two) == 1


def test_files_can_be_given_by_path(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(picture(1))
    by_path, by_text, by_bytes = (
        model.generate(image=image, to="audio", steps=2)["audio"] for image in (path, str(path), picture(1))
    )
    assert by_path == by_text == by_bytes


def test_conditions_may_differ_in_what_they_give(model: Model) -> None:
    given = [{"text": "one"}, {"image": picture(1)}, {"text": "one", "image": picture(1)}, {}]
    found = rows(model, given, to=("audio",), num=2, asked=Asked(steps=2), seed=1)
    assert [(row["row"], row["sample"]) for row in found] == [(at, each) for at in range(4) for each in range(2)]
    assert len({row["audio"] for row in found}) == 8
    alone = rows(model, [{"text": "one"}], to=("audio",), num=2, asked=Asked(steps=2), seed=1)
    # the last bits follow the batch's size, what was drawn does not
    for mine, theirs in zip(alone, found, strict=False):
        heard, wanted = (soundfile.read(io.BytesIO(row["audio"]))[0] for row in (mine, theirs))
        assert np.abs(heard - wanted).max() < 0.01 * np.abs(wanted).max()


def test_what_was_made_is_saved_under_speaking_names(model: Model, tmp_path: Path) -> None:
    made = model.generate(text=["one", "two"], to=("image", "audio"), num=2, steps=1)
    paths = made.save(tmp_path / "out")
    assert [path.name for path in paths[:4]] == [
        "000-000-image.png", "000-000-audio.wav", "000-001-image.png", "000-001-audio.wav",
    ]  # fmt: skip
    assert paths[0].read_bytes() == made["image"][0]
    text = model.generate(image=picture(0), to="text", steps=1)
    assert text.save(tmp_path / "out")[0].read_text() == text["text"][0]


def test_users_mistakes_are_answered_in_a_line(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UnknownReference, match="unknown slot 'imge': did you mean 'image'"):
        model.generate(text="one", to="imge")
    with pytest.raises(UnknownReference, match="unknown slot 'vidoe'"):
        model.generate(slots={"vidoe": b"x"}, to="image")
    with pytest.raises(ConfigError, match="lists of one length"):
        model.generate(text=["a", "b"], image=[picture(0)], to="audio")
    with pytest.raises(ConfigError, match="nothing is left to make"):
        model.generate(text="a", image=picture(0), audio=sound(0))
    with pytest.raises(ConfigError, match="num: wanted at least 1, came 0"):
        model.generate(text="a", to="image", num=0)
    with pytest.raises(ConfigError, match="steps"):
        model.generate(text="a", to="image", steps=0)
    with pytest.raises(UnknownReference, match="no such file"):
        model.generate(image=tmp_path / "none.png", to="text")
    with pytest.raises(SourceError, match="image"):
        model.generate(image=b"no picture", to="text")


def test_a_package_is_whole_without_its_store(package: Path, model: Model, line: Line) -> None:
    assert {path.name for path in package.iterdir()} == {
        "config.json", "tokenizer.json", "codec-text.safetensors", "codec-image.safetensors",
        "codec-audio.safetensors", "fusion.safetensors", "generator.safetensors",
    }  # fmt: skip
    about = json.loads((package / "config.json").read_text())
    assert about["lineage"]["generator"] == line.made["train-generator"].ref
    assert str(line.store.base) not in (package / "config.json").read_text()
    assert model.slots == {"audio": "audio", "image": "image", "text": "text"}


def test_a_model_by_reference_makes_what_its_package_makes(line: Line, model: Model) -> None:
    for reference in ("tiny", "tiny@1", "model:tiny@1"):
        loaded = mmgen.load(reference, store=line.store, device="cpu")
        made = loaded.generate(text="one", to="image", steps=2)
        assert made["image"] == model.generate(text="one", to="image", steps=2)["image"]


def test_a_package_brings_the_settings_that_it_was_scored_with(line: Line, model: Model, tmp_path: Path) -> None:
    made, asked = line.made, {"guidance": 4.0, "joint_guidance": 3.0, "steps": 3}
    folder = save_package(line.store, made["fit"], made["train-fusion"], made["train-generator"], tmp_path / "p", asked)
    tuned = load_package(folder, device="cpu")
    assert (
        tuned.generate(text="one", to="image")["image"]
        == (model.generate(text="one", to="image", guidance=4.0, steps=3)["image"])
    )
    assert tuned.generate()["image"] == model.generate(guidance=3.0, steps=3)["image"]


def test_a_registered_model_is_loaded_from_its_package(tmp_path: Path) -> None:
    line = copied(tmp_path)
    made = line.made
    draft = Draft(line.store, "promotion", "tiny", "f" * 64)
    files = package_files(line.store, made["fit"], made["train-fusion"], made["train-generator"], {"steps": 2})
    for name, data in files.items():
        draft.put(f"package/{name}", data, "package")
    draft.commit(
        step="register", config={}, inputs={"generator": made["train-generator"].link},
        facts={"alias": "champion", "model": made["train-generator"].ref},
    )  # fmt: skip
    for path in line.store.walk("codecs"):
        line.store.delete(path)
    assert mmgen.load("tiny@champion", store=line.store, device="cpu").about["defaults"] == {"steps": 2}


def test_references_to_nothing_are_answered_with_what_is_there(line: Line, tmp_path: Path) -> None:
    with pytest.raises(UnknownReference, match="tiny"):
        mmgen.load("tyni", store=line.store)
    with pytest.raises(UnknownReference, match="wanted a model that generates"):
        mmgen.load("tiny-fusion", store=line.store)
    with pytest.raises(UnknownReference, match=r"config\.json"):
        load_package(tmp_path)


def test_a_package_that_lost_or_mixed_up_a_file_is_refused(package: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in package.iterdir()}

    def written(name: str, changed: dict[str, bytes | None]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for each, data in {**files, **changed}.items():
            if data is not None:
                (folder / each).write_bytes(data)
        return folder

    with pytest.raises(IntegrityError, match=r"wanted fusion\.safetensors"):
        load_package(written("lost", {"fusion.safetensors": None}))
    with pytest.raises(IntegrityError, match="wanted weights of this network"):
        load_package(written("mixed", {"generator.safetensors": files["fusion.safetensors"]}))
    with pytest.raises(IntegrityError, match="wanted weights of this network"):
        load_package(written("cut", {"generator.safetensors": files["generator.safetensors"][:-8]}))
    with pytest.raises(IntegrityError, match="package format 99"):
        load_package(written("new", {"config.json": json.dumps({"format": 99}).encode()}))


def test_importing_mmgen_imports_no_torch() -> None:
    code = "import sys, mmgen; mmgen.load; assert not {'torch', 'mlflow', 'prefect'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0
