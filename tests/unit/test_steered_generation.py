"""What leads a model beside its conditions, from files to files: pairs, negative and mixed conditions, variations,
in-painting of images and sounds, the way between two samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import mmgen
from flows.samples import Wish, given_slots, hole_of, inpaint, interpolate, make
from mmgen.asking import Asked, read_guidance, read_mix, read_named
from mmgen.codec_set import CodecSet, make_codec, read_slots, weights_of
from mmgen.editing import hole_of as hole_in
from mmgen.errors import ConfigError, UnknownReference
from mmgen.generate import Model, load_package, save_package
from mmgen.preprocess.table import preprocesses
from mmgen.store import Store
from tests import tiny_model
from tests.data_sources import picture, sound


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, of which a flow's last layers have some too."""
    store, folder = Store(tmp_path_factory.mktemp("steered") / "store"), tmp_path_factory.mktemp("shipped") / "package"
    made = tiny_model.line(store)
    save_package(store, made["codecs"], made["fusion"], made["generator"], folder)
    torch.manual_seed(0)
    flow = load_package(folder, device="cpu").maker.generator
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    (folder / "generator.safetensors").write_bytes(weights_of(flow))
    return folder


@pytest.fixture(scope="module")
def model(package: Path) -> Model:
    return mmgen.load(package, device="cpu")


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"), dtype=np.int64)


def wave(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data))[0]


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def left_half(side: int = 28) -> np.ndarray:
    mask = np.zeros((side, side))
    mask[:, : side // 2] = 255
    return mask


def image_of(model: Model, **asked: Any) -> bytes:
    return model.generate(**{"text": "one", "to": "image", "steps": 3, **asked})["image"][0]


class TestGenerate:
    def test_samplers_and_shifts_differ_and_are_seeded(self, model: Model) -> None:
        asked = ({}, {"sampler": "heun"}, {"sampler": "dpm"}, {"shift": 3.0}, {"seed": 1})
        made = [image_of(model, steps=6, **each) for each in asked]
        assert len(set(made)) == len(asked)
        assert [image_of(model, steps=6, **each) for each in asked] == made
        assert image_of(model, sampler="euler", steps=6) == made[0]

    def test_the_weight_of_the_only_pair_is_the_guidance(self, model: Model) -> None:
        paired = image_of(model, pairs={("text", "image"): 4.0})
        assert np.abs(pixels(paired) - pixels(image_of(model, guidance=4.0))).max() <= 1
        assert paired != image_of(model)

    def test_negative_conditions_and_mixtures_lead(self, model: Model) -> None:
        assert image_of(model, negative={"text": "two"}) != image_of(model)
        assert np.abs(pixels(image_of(model, negative={"text": "one"}, guidance=9.0)) -
                      pixels(image_of(model, guidance=1.0))).max() <= 1  # fmt: skip
        one = model.generate(mix=[(0.4, {"text": "one"})], to="image", steps=3)["image"][0]
        assert np.abs(pixels(one) - pixels(image_of(model))).max() <= 1
        several = model.generate(mix=[(0.7, {"audio": sound(1)}), (0.3, {"text": "one"})], steps=3)
        assert list(several.extensions) == ["image"]
        twice = model.generate(mix=[(1, {"audio": sound(1)}), (1, {"audio": sound(2)})], to="image", steps=3)
        assert len({several["image"][0], twice["image"][0], one}) == 3

    def test_a_variation_begins_with_what_is_given(self, model: Model) -> None:
        again = model.generate(image=picture(1), to="image", strength=1e-4, steps=2)["image"][0]
        value = model.maker.codecs.value("image", picture(1))
        through = model.maker.codecs.decode("image", model.maker.codecs.encode("image", value))
        (plain,) = model.maker.codecs.preprocesses["image"].files(through)
        assert np.abs(pixels(again) - pixels(plain)).max() <= 1
        given = {"image": [picture(1), picture(2)], "to": "image", "steps": 2}
        near, far = (model.generate(**given, strength=each, num=2) for each in (0.1, 0.9))
        assert len(set(near["image"] + far["image"])) == 8
        # the last bits follow the batch's size, what was drawn does not
        alone = model.generate(image=picture(1), to="image", steps=2, strength=0.9, num=2)["image"]
        assert all(np.abs(pixels(a) - pixels(b)).max() <= 1 for a, b in zip(alone, far["image"], strict=False))

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            ({"pairs": {("audio", "image"): 2.0}}, "pairs: .* came audio:image; given: text; made: image"),
            ({"pairs": {("text", "audio"): 2.0}}, "made: image"),
            ({"pairs": {("image", "image"): 2.0}}, "pairs"),
            ({"strength": 0.5}, "strength: wanted what is varied, 'image' is made and not given"),
            ({"image": picture(0), "strength": 0.0}, "strength: wanted more than 0"),
            ({"sampler": "hein"}, "did you mean 'heun'"),
            ({"shift": 0.0}, "shift"),
            ({"negative": {"text": "two"}, "guidance": 1.0}, "negative: .* guidance of 1"),
            ({"mix": [(-1.0, {"text": "x"})]}, "mix: wanted weights"),
        ],
    )
    def test_users_mistakes_are_answered(self, model: Model, asked: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            image_of(model, **asked)

    def test_unknown_slots_are_answered_with_the_nearest(self, model: Model) -> None:
        for asked in ({"pairs": {("txt", "image"): 1.0}}, {"negative": {"txt": "a"}}, {"mix": [(1, {"txt": "a"})]}):
            with pytest.raises(UnknownReference, match="unknown slot 'txt': did you mean 'text'"):
                image_of(model, **asked)


class TestInpaint:
    def test_known_pixels_come_back_and_the_hole_is_not_looked_at(self, model: Model) -> None:
        given = picture(1)
        known = ~hole_in(model.maker.codecs, "image", given, png(left_half())).made.numpy()
        # the hole ends between two pixels of the slot, and resizing lets both of them see it
        assert known.sum() == 16 * 7
        made = model.inpaint("image", given, png(left_half()), slots={"text": "one"}, num=2, steps=3)
        assert [(row["row"], row["sample"]) for row in made.rows] == [(0, 0), (0, 1)]
        whole = pixels(model.maker.codecs.preprocesses["image"].files(model.maker.codecs.value("image", given))[0])
        for data in made["image"]:
            assert (pixels(data)[known] == whole[known]).all()
            assert (pixels(data)[~known] != whole[~known]).any()
        assert made["image"][0] != made["image"][1]
        other = pixels(given).copy()
        other[:, : other.shape[1] // 2] = 255
        again = model.inpaint("image", png(other), png(left_half()), slots={"text": "one"}, num=2, steps=3)
        for mine, theirs in zip(made["image"], again["image"], strict=True):
            assert (pixels(mine)[~known] == pixels(theirs)[~known]).all()

    def test_a_span_of_a_sound_is_made_anew_and_the_rest_is_the_sample_as_it_was(self, model: Model) -> None:
        made = model.inpaint("audio", sound(1), (0.1, 0.15), steps=2)["audio"][0]
        how = model.maker.codecs.preprocesses["audio"]
        given, heard = soundfile.read(io.BytesIO(sound(1)), dtype="float32")
        rate = how.sample_rate_hz
        clip = how.clip(torch.from_numpy(given), heard).numpy()
        start, stop = round(0.1 * rate), round(0.15 * rate)
        assert len(wave(made)) == how.samples
        away = np.abs(wave(made) - clip)
        assert max(away[:start].max(), away[stop:].max()) < 2e-4
        assert away[start:stop].max() > 0.01

    @pytest.mark.parametrize(
        ("slot", "value", "hole", "words"),
        [
            ("image", picture(1), (0.1, 0.2), "hole: 'image' is an image"),
            ("audio", sound(1), png(left_half()), "hole: 'audio' is a sound"),
            ("audio", sound(1), (0.2, 0.1), "0 ≤ start < stop ≤ 0.25"),
            ("audio", sound(1), (0.1, 0.3), "0 ≤ start < stop ≤ 0.25"),
            ("image", picture(1), png(np.zeros((28, 28))), "without white"),
            (
                "image",
                picture(1),
                png(left_half(20)),
                "wanted a mask of the image's size, 28 × 28 pixels, came 20 × 20",
            ),
            ("text", "one", (0.1, 0.2), "'text' is none"),
        ],
        ids=range(7),
    )
    def test_holes_that_are_none_are_refused(self, model: Model, slot: str, value: Any, hole: Any, words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            model.inpaint(slot, value, hole, steps=1)


def test_no_token_that_a_hole_touches_is_kept() -> None:
    slots = read_slots(tiny_model.CONFIG.to_json()["slots"])
    slots = {slot: slots[slot] for slot in ("image", "audio")}
    grid = {"patch": 2, "widths": (8, 8), "depth": 1, "latent_width": 4, "kl_weight": 0.0}
    nets = {"image": make_codec("conv_image", {"channels": 1, "height": 16, "width": 16, **grid}),
            "audio": make_codec("conv_mel", {"mels": 16, "frames": 16, **grid})}  # fmt: skip
    codecs = CodecSet(slots, preprocesses(slots, None), nets, {}, {}, None, ())  # type: ignore[arg-type]
    mask = np.zeros((16, 16))
    mask[3:5, 12] = 255
    kept = hole_in(codecs, "image", png(np.full((16, 16), 90)), png(mask)).keep_T.reshape(4, 4)
    assert (~kept).nonzero().tolist() == [[0, 3], [1, 3]]
    # windows of 1024 samples at 8000 Hz every 125: those of the frames 0 to 7 reach into the first 50 ms
    heard = hole_in(codecs, "audio", sound(1), (0.0, 0.05))
    assert heard.made.nonzero().flatten().tolist() == list(range(8))
    assert heard.keep_T.reshape(4, 4).tolist() == [[False, False, True, True]] * 4


class TestInterpolate:
    def test_both_ends_are_what_the_codec_makes_of_them(self, model: Model) -> None:
        made = model.interpolate({"image": picture(1)}, {"image": picture(2)}, 4, slots={"text": "one"})
        assert [row["sample"] for row in made.rows] == [0, 1, 2, 3]
        codecs = model.maker.codecs
        for end, given in ((0, picture(1)), (-1, picture(2))):
            through = codecs.decode("image", codecs.encode("image", codecs.value("image", given)))
            (wanted,) = codecs.preprocesses["image"].files(through)
            assert np.abs(pixels(made["image"][end]) - pixels(wanted)).max() <= 3
        again = model.interpolate({"image": picture(1)}, {"image": picture(2)}, 4, slots={"text": "one"})
        assert again.rows == made.rows

    def test_several_slots_go_together(self, model: Model) -> None:
        ends = [{"text": "one", "audio": sound(seed)} for seed in (1, 2)]
        made = model.interpolate(*ends, 2, steps=3)
        assert set(made.extensions) == {"text", "audio"}

    def test_ends_that_do_not_fit_are_refused(self, model: Model) -> None:
        with pytest.raises(ConfigError, match=r"same slots, came \['image'\] and \['text'\]"):
            model.interpolate({"image": picture(1)}, {"text": "one"})
        with pytest.raises(ConfigError, match="num: wanted at least 2"):
            model.interpolate({"text": "a"}, {"text": "b"}, 1)


class TestCommands:
    def test_the_command_line_says_the_same(self, model: Model, package: Path, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(picture(1))
        guidance, pairs = read_guidance(["1.5", "text:audio=3"], "--guidance")
        asked = Asked(guidance, pairs, read_named(["text=two"], "--negative"),
                      read_mix(["0.5:image=" + str(tmp_path / "a.png")], "--mix"), None, "dpm", 2.0, 3)  # fmt: skip
        answer = make(str(package), Wish({"text": "one"}, 2, 4, asked, ("audio",)), tmp_path / "out", "none", "cpu")
        here = model.generate(
            text="one", to="audio", num=2, guidance=1.5, pairs={("text", "audio"): 3.0}, negative={"text": "two"},
            mix=[(0.5, {"image": tmp_path / "a.png"})], sampler="dpm", shift=2.0, steps=3, seed=4,
        )  # fmt: skip
        assert [Path(path).read_bytes() for path in answer["files"]] == here["audio"]
        assert answer["seed"] == 4

    def test_inpaint_and_interpolate_write_files_too(self, model: Model, package: Path, tmp_path: Path) -> None:
        for name, data in (("a.png", picture(1)), ("b.png", picture(2)), ("hole.png", png(left_half()))):
            (tmp_path / name).write_bytes(data)
        a, b, hole = (str(tmp_path / name) for name in ("a.png", "b.png", "hole.png"))
        wish = Wish(given_slots(None, None, None, [f"image={a}", "text=one"]), 1, 3, Asked(steps=2))
        answer = inpaint(str(package), "image", hole_of(hole), wish, tmp_path / "out", "none", "cpu")
        here = model.inpaint("image", a, hole, slots={"text": "one"}, steps=2, seed=3)
        assert [Path(path).read_bytes() for path in answer["files"]] == here["image"]
        answer = interpolate(str(package), {"image": a}, {"image": b}, Wish({}, 3, asked=Asked(steps=2)),
                             tmp_path / "way", "none", "cpu")  # fmt: skip
        assert len(answer["files"]) == 3
        assert hole_of("0.2:0.5") == (0.2, 0.5)


def test_a_generator_without_a_flow_says_so(package: Path) -> None:
    from mmgen.generators.concat_baseline import ConcatBaseline

    loaded = load_package(package, device="cpu")
    hows = loaded.maker.codecs.preprocesses
    shapes = {slot: (*how.shape, 300) if slot == "text" else how.shape for slot, how in hows.items()}
    baseline = ConcatBaseline(loaded.slots, shapes, {"audio": "cnn_mel"}, {"audio": 8}, "image")  # type: ignore[arg-type]
    without = Model(mmgen_maker(loaded, baseline), loaded.about)
    assert without.generate(audio=sound(1), to="image")["image"]
    for asked in ({"negative": {"text": "x"}}, {"strength": 0.5, "image": picture(1)}):
        with pytest.raises(ConfigError, match="whose generator is a joint_flow, came ConcatBaseline"):
            without.generate(audio=sound(1), to="image", **asked)
    with pytest.raises(ConfigError, match="joint_flow"):
        without.interpolate({"image": picture(1)}, {"image": picture(2)})


def mmgen_maker(loaded: Model, generator: Any) -> Any:
    from dataclasses import replace

    return replace(loaded.maker, generator=generator.eval())
