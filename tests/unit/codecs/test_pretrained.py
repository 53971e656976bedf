"""Codecs of other libraries: what they give is what their library gives, and a package needs no folder of theirs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmgen.artifact import Artifact
from mmgen.codec_set import CodecSet, load_weights, make_codec, weights_of
from mmgen.codecs.config import AutoencoderKLConfig, CodecsConfig, EncodecConfig
from mmgen.config import Config, build
from mmgen.errors import ConfigError
from mmgen.fit import fit
from mmgen.fit_parts import load_codec
from mmgen.generate import load_package, save_package
from mmgen.identity import identity
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess
from mmgen.runtime import Runtime
from mmgen.steps import STEPS, decide
from mmgen.store import Store
from tests.foreign_models import RATE_HZ, SAMPLES, folder, hows
from tests.tiny_line import PARTS, config_of, perform


def image_codec(source: str | None = None) -> AutoencoderKLConfig:
    return AutoencoderKLConfig(kind="autoencoder_kl", source=source or folder("autoencoder_kl"))


def sound_codec(source: str | None = None) -> EncodecConfig:
    return EncodecConfig(kind="encodec", source=source or folder("encodec"))


def test_autoencoder_kl_gives_the_posteriors_mean_and_the_librarys_picture() -> None:
    from diffusers import AutoencoderKL

    _, made = load_codec(image_codec(), ImagePreprocess(32, 3))
    codec: Any = made.eval()
    theirs = AutoencoderKL.from_pretrained(folder("autoencoder_kl")).eval()
    value = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        z_BTD = codec.encode(value)
        wanted = theirs.encode(value).latent_dist.mean
        assert codec.latent_shape == (64, 4)
        assert torch.allclose(z_BTD, wanted.flatten(2).transpose(1, 2))
        assert torch.allclose(codec.decode(z_BTD), theirs.decode(wanted).sample, atol=1e-6)


def test_a_grey_picture_is_given_to_all_three_colours() -> None:
    _, made = load_codec(image_codec(), ImagePreprocess(32, 1))
    codec: Any = made.eval()
    value = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        assert codec.decode(codec.encode(value)).shape == (2, 1, 32, 32)


@pytest.mark.parametrize("samples", [4_800, 4_801, 4_959])
def test_encodec_gives_the_embeddings_before_quantisation_and_the_librarys_sound(samples: int) -> None:
    from transformers import EncodecModel

    how = AudioPreprocess(RATE_HZ, samples / RATE_HZ, 16, representation="waveform")
    _, made = load_codec(sound_codec(), how)
    codec: Any = made.eval()
    theirs = EncodecModel.from_pretrained(folder("encodec")).eval()
    value = torch.rand(2, 1, samples) - 0.5
    with torch.no_grad():
        z_BTD = codec.encode(value)
        assert tuple(z_BTD.shape[1:]) == codec.latent_shape
        assert torch.equal(z_BTD.transpose(1, 2), theirs.encoder(value))
        # at its highest rate, all codebooks
        codes, scales = theirs.encode(value, bandwidth=2.0, return_dict=False)[:2]
        wanted = theirs.decode(codes, scales, return_dict=False)[0]
        assert len(theirs.quantizer.layers) == codes.shape[2]
        assert torch.allclose(codec.decode(z_BTD), wanted[..., :samples], atol=1e-6)


@pytest.mark.parametrize(("settings", "how"), [(image_codec(), "image"), (sound_codec(), "audio")])
def test_it_is_made_anew_from_plain_settings_and_its_weights(settings: Any, how: str) -> None:
    spec, made = load_codec(settings, hows()[how])
    again = make_codec(spec["kind"], spec["args"])
    load_weights(again, weights_of(made), "codec")
    value = torch.rand(2, *hows()[how].shape) - 0.5
    assert torch.equal(again.eval().encode(value), made.eval().encode(value))


def test_slots_that_do_not_fit_the_codec_are_refused_by_name() -> None:
    sound = {"sample_rate_hz": RATE_HZ, "seconds": 0.6, "mels": 16}
    with pytest.raises(ConfigError, match="representation: wanted waveform for encodec"):
        load_codec(sound_codec(), AudioPreprocess(**sound))
    with pytest.raises(ConfigError, match="sample_rate_hz 8000, as the codec was trained with, came 16000"):
        load_codec(sound_codec(), AudioPreprocess(**{**sound, "sample_rate_hz": 16_000}, representation="waveform"))
    with pytest.raises(ConfigError, match="multiples of 4, came 30 × 30"):
        load_codec(image_codec(), ImagePreprocess(30, 3))
    with pytest.raises(ConfigError, match=r"mean, std: wanted 0.5 and 0.5"):
        load_codec(image_codec(), ImagePreprocess(32, 3, mean=0.0, std=1.0))
    with pytest.raises(ConfigError, match=r"wanted a model of kind AutoencoderKL, its config.json says EncodecModel"):
        load_codec(image_codec(folder("encodec")), ImagePreprocess(32, 3))


def test_a_configuration_without_a_kind_is_ours_and_one_with_it_replaces_the_recipes(tmp_path: Path) -> None:
    assert CodecsConfig.model_validate({"image": {"patch": 2}}).image.kind == "conv_image"
    source = {"kind": "table", "path": "pairs.csv", "key": "id", "image": "image"}
    raw = {"name": "pairs", "recipe": "spoken_digits", "source": source}
    codecs = {"image": {"kind": "autoencoder_kl", "source": "x"}}
    assert build({**raw, "codecs": codecs}).codecs.image == image_codec("x")


# ---------------------------------------------------------------- through the line


def configured(image: str, audio: str) -> Config:
    slots = {**PARTS["slots"], "image": {"modality": "image", "size_px": 16, "channels": 1}}
    slots["audio"] = {"modality": "audio", "sample_rate_hz": RATE_HZ, "seconds": SAMPLES / RATE_HZ,
                      "representation": "waveform"}  # fmt: skip
    codecs = {"text": PARTS["codecs"]["text"]}
    codecs |= {"image": {"kind": "autoencoder_kl", "source": image}, "audio": {"kind": "encodec", "source": audio}}
    return config_of(slots=slots, codecs=codecs)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("pretrained") / "store")


def test_the_whole_line_with_codecs_of_others_ships_without_their_folders(store: Store, tmp_path: Path) -> None:
    image, audio = (shutil.copytree(folder(name), tmp_path / name) for name in ("autoencoder_kl", "encodec"))
    config, runtime = configured(str(image), str(audio)), Runtime(store, device="cpu")
    line = perform(config, runtime, *list(STEPS)[: list(STEPS).index("train-generator") + 1])
    codecs, generator, fusion = (line.made[step] for step in ("fit", "train-generator", "train-fusion"))
    assert codecs.facts["codecs"]["image"]["kind"] == "autoencoder_kl"
    assert "steps" not in codecs.facts["parts"]["codec:audio"]
    assert str(tmp_path) not in codecs.to_json().decode()
    _, theirs = load_codec(image_codec(), ImagePreprocess(16, 1))
    assert store.read(codecs.file("codec:image").path) == weights_of(theirs)
    # elsewhere: by their bytes they are the same
    moved = configured(str(image.rename(tmp_path / "elsewhere")), str(audio))
    again = decide(STEPS["fit"], moved, line.inputs("fit"), runtime)
    assert again.artifact == codecs
    package = save_package(store, codecs, fusion, generator, tmp_path / "package")
    shutil.rmtree(tmp_path / "elsewhere")
    shutil.rmtree(audio)
    model = load_package(package, device="cpu")
    made = model.generate(text=["anything"], to=("image", "audio"), num=1, steps=2, seed=0)
    assert len(made) == 1
    _latents_are_standardised(store, line.made["extract"], codecs)


def _latents_are_standardised(store: Store, features: Artifact, codecs: Artifact) -> None:
    from mmgen.batches import open_samples

    found = open_samples(store, features, "latents", "train")
    assert found is not None
    rows = np.concatenate([shard.slots["image"].rows for shard in found.shards])
    assert np.abs(rows.mean((0, 1))).max() < 0.05
    assert CodecSet.load(store, codecs).latent_shape("audio") == (30, 8)


def test_other_weights_are_another_identity_and_only_that_part_is_made_anew(store: Store) -> None:
    runtime = Runtime(store, device="cpu")
    first = configured(folder("autoencoder_kl"), folder("encodec"))
    line = perform(first, runtime, "ingest", "validate", "shard", "fit")
    other = configured(folder("autoencoder_kl", seed=1), folder("encodec"))
    dataset = {"dataset": line.made["shard"]}
    assert identity("fit", first, dataset).fingerprint != identity("fit", other, dataset).fingerprint
    assert identity("fit", first, dataset).pin != identity("fit", other, dataset).pin
    made = fit(other, dataset, runtime)
    then, now = (each.facts["parts"] for each in (line.made["fit"], made))
    assert now["codec:image"]["why"] == "its configuration changed"
    assert now["codec:audio"] == then["codec:audio"]
    assert now["codec:text"] == then["codec:text"]
