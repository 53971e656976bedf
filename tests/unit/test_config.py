"""Configurations: recipes merged in, inactive slots left out, mistakes answered in one line."""

import pytest
import yaml

from mmgen import config
from mmgen.errors import ConfigError
from mmgen.identity import STEP_VERSIONS, identity
from mmgen.steps import NAMES

TABLE = {"kind": "table", "path": "a.csv", "text": "caption", "image": "picture"}

BASELINE = {
    "kind": "concat_baseline",
    "encoders": {"text": {"kind": "bilstm_text"}, "image": {"kind": "resnet18_image"}},
    "target": "image",
}
WRITER = {"kind": "autoregressive"}


def build(**more):
    return config.build({"name": "mine", "source": TABLE, **more})


@pytest.mark.parametrize("name", config.recipes())
def test_every_recipe_is_a_complete_configuration(name):
    source = {"path": "pairs.csv", "text": "caption", "image": "image", "audio": "audio", "label": "label"}
    made = config.build({"name": "mine", "recipe": name, "source": source})
    assert made.recipe == name
    assert made.slots


def test_slots_without_a_column_are_not_active():
    assert set(build().slots) == {"text", "image"}


def test_a_slot_of_ones_own_needs_only_a_modality_and_a_column():
    made = build(slots={"question": {"modality": "text", "column": "q"}})
    assert made.slots["question"].modality == "text"
    assert set(made.slots) == {"text", "image", "question"}


def test_what_the_user_says_is_laid_upon_the_recipe():
    made = build(slots={"image": {"size_px": 64}}, fusion={"width": 32})
    assert made.slots["image"].size_px == 64
    assert made.fusion.width == 32


def test_another_kind_replaces_the_recipes_section_whole():
    made = build(generator=BASELINE)
    assert made.generator.kind == "concat_baseline"


def test_a_text_codec_of_another_kind_is_laid_upon_the_recipes_settings():
    made = config.build(
        {"name": "m", "recipe": "spoken_digits", "source": TABLE, "codecs": {"text": {"kind": "autoregressive"}}}
    )
    assert (made.codecs.text.kind, made.codecs.text.kl_weight) == ("autoregressive", 0.03)
    assert build().codecs.text.kind == "tokens"


def test_the_path_of_a_source_is_relative_to_the_configuration(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "source": TABLE}))
    assert config.load(file).source.path == str(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ({"source": {**TABLE, "imagee": "x"}}, "source.imagee: unknown key 'imagee': did you mean 'image'"),
        ({"slots": {"text": {"max_token": 3}}}, "slots.text.max_token: unknown key .* did you mean 'max_tokens'"),
        ({"generator": {"widht": 3}}, "generator.widht: unknown key .* did you mean 'width'"),
        ({"fusion": {"width": "wide"}}, "fusion.width: .*integer.*came 'wide'"),
        ({"fusion": {"train": {"steps": 5, "batchsize": 2}}}, "did you mean 'batch_size'"),
        ({"recipe": "smal"}, "unknown recipe 'smal': did you mean 'small'"),
        ({"name": "A b"}, "name: wanted lower-case"),
        ({"source": {"path": "a.csv"}}, "names no column for any slot"),
        ({"source": {"text": "t"}}, "source.path: missing"),
        ({"source": "a.csv"}, "source: wanted a mapping"),
        ({"validate": {"splits": {"train": 0.5}}}, "wanted shares that add up to 1"),
        ({"fusion": {"train": {"steps": 5, "epochs": 2}}}, "exactly one of steps and epochs"),
        ({"extract": {"encoders": {"imag": {"kind": "cnn_image"}}}}, "unknown slot 'imag': did you mean 'image'"),
        ({"codecs": {"text": {"kind": "tokns"}}}, "codecs.text: wanted .* of kind tokens or autoregressive"),
        ({"codecs": {"text": {"widht": 3}}}, "codecs.text.widht: unknown key .* did you mean 'width'"),
        ({"generator": WRITER | {"targets": ["txt"]}}, "generator.targets: unknown text slot 'txt': did you mean"),
        ({"generator": WRITER | {"targets": ["image"]}}, "unknown text slot 'image'"),
        ({"generator": WRITER | {"latent_condition": False, "fusion_condition": False}}, "came neither"),
        ({"generator": BASELINE | {"target": "imagee"}}, "unknown slot 'imagee': did you mean 'image'"),
        ({"generator": BASELINE | {"encoders": {"audio": {"kind": "cnn_mel"}}}}, "unknown slot 'audio'"),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_the_nearest_known_name(raw, wanted):
    with pytest.raises(ConfigError, match=wanted) as caught:
        build(**raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1", "- a", "", "name: \x00"])
def test_a_file_that_is_no_configuration_is_a_users_mistake(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        config.load(tmp_path / "c.yaml")


def test_a_missing_file_points_to_init(tmp_path):
    with pytest.raises(ConfigError, match="mmgen init"):
        config.load(tmp_path / "c.yaml")


def test_every_step_has_a_version_and_an_identity():
    assert tuple(STEP_VERSIONS) == NAMES
    prints = {step: identity(step, build(), {}).fingerprint for step in NAMES}
    assert len(set(prints.values())) == len(NAMES)


def test_paths_and_pin_policies_are_no_identity():
    one, two = build(), build(source={**TABLE, "path": "elsewhere/b.csv"}, fusion={"pin": {"refit_below": 0.5}})
    for step in NAMES:
        assert identity(step, one, {}) == identity(step, two, {})


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"generator": {"width": 64}}, {"train-generator"}),
        ({"fusion": {"width": 64}}, {"train-fusion"}),
        ({"fusion": {"pretrain": {"steps": 5}}}, {"train-fusion"}),
        ({"codecs": {"text": {"kind": "autoregressive"}}}, {"fit"}),
        ({"codecs": {"image": {"depth": 3}}}, {"fit"}),
        ({"shard": {"max_samples": 10}}, {"shard"}),
        ({"evaluate": {"guidance": 5.0}}, {"evaluate"}),
        ({"slots": {"image": {"size_px": 64}}}, {"validate", "fit", "extract"}),
        ({"extract": {"encoders": {"image": {"kind": "cnn_image"}}}}, {"extract"}),
        ({"source": {**TABLE, "image": "photo"}}, {"ingest"}),
    ],
)
def test_a_setting_touches_only_the_steps_whose_result_it_can_change(change, touched):
    one, two = build(), build(**change)
    assert {step for step in NAMES if identity(step, one, {}) != identity(step, two, {})} == touched


def test_weights_to_start_from_are_their_bytes_not_their_path(tmp_path):
    def named(name: str, data: bytes):
        (tmp_path / name).write_bytes(data)
        encoders = BASELINE["encoders"] | {"image": {"kind": "resnet18_image", "weights": str(tmp_path / name)}}
        return build(generator=BASELINE | {"encoders": encoders})

    one, moved, other = named("a", b"1"), named("b", b"1"), named("c", b"2")
    assert identity("train-generator", one, {}) == identity("train-generator", moved, {})
    assert identity("train-generator", one, {}) != identity("train-generator", other, {})
    (tmp_path / "a").unlink()
    with pytest.raises(ConfigError, match=r"encoders.image.weights: wanted a local safetensors file"):
        identity("train-generator", one, {})
