"""Encoders of other libraries: what they give is what their library gives, and only what is asked for learns."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import models

from mmgen.codec_set import load_weights, weights_of
from mmgen.encoders.config import EncoderConfig
from mmgen.encoders.foreign import ForeignEncoder
from mmgen.encoders.foreign_text import TransformersText, give_tokenizer
from mmgen.encoders.specs import encoder_spec, encoder_start
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError, IntegrityError
from mmgen.preprocess.audio import AudioPreprocess
from tests.foreign_models import RATE_HZ, SAMPLES, WAV2VEC2, WORDS, folder, hows, tokenizer

CLIP = {"kind": "transformers_image", "source": "clip"}
CLIP_TEXT = {"kind": "transformers_text", "source": "clip"}
BERT = {"kind": "transformers_text", "source": "bert"}
WAVE = {"kind": "transformers_audio", "source": "wav2vec2"}
CLAP = {"kind": "transformers_audio", "source": "clap"}
TORCHAUDIO = {"kind": "torchaudio_audio", "model": "wav2vec2_model", "options": WAV2VEC2, "sample_rate_hz": RATE_HZ}
TORCHVISION = {"kind": "torchvision_image", "model": "resnet18"}
ALL = (CLIP, CLIP_TEXT, BERT, WAVE, CLAP, TORCHAUDIO, TORCHVISION)
each_model = pytest.mark.parametrize("raw", ALL, ids=lambda raw: raw.get("source", raw.get("model")) + raw["kind"][-6:])


def slot_of(raw: dict[str, Any]) -> Any:
    return raw["kind"].rsplit("_", 1)[1]


def read(raw: dict[str, Any], **more: Any) -> Any:
    whole = {**raw, **more}
    if "source" in whole:
        whole["source"] = folder(whole["source"])
    return TypeAdapter(EncoderConfig).validate_python(whole)


def shape_of(slot: str) -> tuple[int, ...]:
    how = hows()[slot]
    return (*how.shape, len(how.tokenizer)) if slot == "text" else how.shape


def made(raw: dict[str, Any], seed: int = 0, **more: Any) -> ForeignEncoder:
    settings, slot = read(raw, **more), slot_of(raw)
    # as a manifest gives it back
    spec = json.loads(json.dumps(encoder_spec(settings, hows()[slot], slot)))
    torch.manual_seed(seed)
    encoder = make_encoder(spec, slot, shape_of(slot), settings.width, encoder_start(settings))
    give_tokenizer(encoder, tokenizer())
    assert isinstance(encoder, ForeignEncoder)
    return encoder.eval()


def value(slot: str) -> torch.Tensor:
    how = hows()[slot]
    if slot == "text":
        return torch.stack([how.value(torch.from_numpy(how.compact(text.encode(), ""))) for text in WORDS])
    shape = (3, *how.shape)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 0.5


def learn(encoder: ForeignEncoder, slot: str, steps: int = 2) -> None:
    """Some steps of training with everything that a training does to a module."""
    encoder.train()
    optimiser = torch.optim.SGD([each for each in encoder.parameters() if each.requires_grad], lr=0.1)
    for _ in range(steps):
        loss = encoder(value(slot)).square().mean() + encoder.token_features(value(slot))[0].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    encoder.eval()


# ---------------------------------------------------------------- what they give


def test_clip_sees_the_slots_picture_in_its_own_size_and_normalisation() -> None:
    import transformers

    theirs = transformers.CLIPModel.from_pretrained(folder("clip")).eval()
    ready = transformers.CLIPImageProcessor.from_pretrained(folder("clip"))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (ready.image_mean, ready.image_std))
    pixels = (value("image") * 0.5 + 0.5).expand(-1, 3, -1, -1)
    seen = (pixels - mean) / std
    with torch.no_grad():
        wanted = theirs.vision_model(pixel_values=seen)
        encoder = made(CLIP)
        x_BTD, mask_BT = encoder.token_features(value("image"))
        assert torch.allclose(encoder(value("image")), wanted.pooler_output, atol=1e-5)
        assert torch.allclose(x_BTD, wanted.last_hidden_state, atol=1e-5)
    assert mask_BT.all()
    assert (encoder.width, encoder.token_count) == (8, 17)


@pytest.mark.parametrize(("raw", "name"), [(BERT, "BertModel"), (CLIP_TEXT, "CLIPTextModel")])
def test_texts_are_cut_into_the_models_own_tokens(raw: dict[str, Any], name: str) -> None:
    import transformers

    theirs = getattr(transformers, name).from_pretrained(folder(raw["source"])).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder(raw["source"]))
    encoder = made(raw)
    # what the slot itself keeps of a text that is longer than it
    kept = hows()["text"].texts(value("text"))
    assert kept[:2] == list(WORDS[:2])
    asked = words(kept, padding=True, truncation=True, max_length=encoder.token_count, return_tensors="pt")
    with torch.no_grad():
        wanted = theirs(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"])
        x_BTD, mask_BT = encoder.token_features(value("text"))
        longest = asked["input_ids"].shape[1]
        assert torch.equal(mask_BT[:, :longest], asked["attention_mask"].bool())
        assert not mask_BT[:, longest:].any()
        assert torch.allclose(encoder(value("text")), wanted.pooler_output, atol=1e-5)
        there = mask_BT[:, :longest, None]
        assert torch.allclose(x_BTD[:, :longest], wanted.last_hidden_state * there, atol=1e-5)
        assert not x_BTD[~mask_BT].any()
    assert x_BTD.shape == (3, 24, 8)


def test_a_text_is_cut_at_max_tokens_of_the_model() -> None:
    encoder = made(BERT, max_tokens=6)
    x_BTD, mask_BT = encoder.token_features(value("text"))
    assert x_BTD.shape[1] == 6
    assert mask_BT.sum(1).tolist() == [6, 6, 6]
    with pytest.raises(ConfigError, match="max_tokens: wanted at most 48, as the model, came 49"):
        made(BERT, max_tokens=49)


def test_wav2vec2_hears_the_waveform_and_clap_its_own_spectrogram() -> None:
    import transformers

    sound = value("audio")
    wave = transformers.Wav2Vec2Model.from_pretrained(folder("wav2vec2")).eval()
    ready = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder("wav2vec2"))
    clap = transformers.ClapModel.from_pretrained(folder("clap")).eval()
    heard = transformers.ClapFeatureExtractor.from_pretrained(folder("clap"))
    with torch.no_grad():
        asked = ready(list(sound[:, 0].numpy()), sampling_rate=RATE_HZ, return_tensors="pt")
        wanted = wave(asked["input_values"]).last_hidden_state
        assert torch.allclose(made(WAVE)(sound), wanted.mean(1), atol=1e-4)
        assert torch.allclose(made(WAVE).token_features(sound)[0], wanted, atol=1e-4)
        asked = heard(list(sound[:, 0].numpy()), sampling_rate=RATE_HZ, return_tensors="pt")
        wanted = clap.audio_model(input_features=asked["input_features"].float()).pooler_output
        assert torch.allclose(made(CLAP)(sound), wanted, atol=1e-5)


def test_torchvisions_networks_start_from_local_weights_of_their_names(tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = models.mobilenet_v3_small(weights=None).eval()
    save_file(theirs.state_dict(), tmp_path / "mobile.safetensors")
    raw = {"kind": "torchvision_image", "model": "mobilenet_v3_small", "weights": str(tmp_path / "mobile.safetensors")}
    encoder = made(raw)
    pixels = (value("image") * 0.5 + 0.5).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = theirs.features((pixels - mean) / std)
        assert torch.allclose(encoder(value("image")), wanted.mean((2, 3)), atol=1e-5)
    with pytest.raises(ConfigError, match=r"is not a torchvision resnet18: .* first '"):
        made({**raw, "model": "resnet18"})


@pytest.mark.parametrize("model", ["regnet_y_400mf", "squeezenet1_1", "efficientnet_b0"])
def test_other_families_of_torchvision_are_read_too(model: str) -> None:
    encoder = made({"kind": "torchvision_image", "model": model, "size_px": 64}, width=6)
    x_BTD, _ = encoder.token_features(value("image"))
    assert encoder(value("image")).shape == (3, 6)
    assert x_BTD.shape == (3, encoder.token_count, 6)


@pytest.mark.slow
def test_a_vit_has_its_own_size_a_class_token_and_blocks_for_adapters() -> None:
    raw = {"kind": "torchvision_image", "model": "vit_b_32", "options": {"image_size": 64}, "trainable": "adapters"}
    encoder = made(raw, width=6)
    assert encoder.token_count == 4
    assert encoder(value("image")).shape == (3, 6)
    with pytest.raises(ConfigError, match="size_px: wanted 64, which vit_b_32 was made for, came 96"):
        made(raw, size_px=96)


def test_torchaudios_networks_start_from_local_weights_of_their_names(tmp_path: Path) -> None:
    import torchaudio

    torch.manual_seed(5)
    theirs = torchaudio.models.wav2vec2_model(**WAV2VEC2).eval()
    save_file(theirs.state_dict(), tmp_path / "wave.safetensors")
    encoder = made({**TORCHAUDIO, "weights": str(tmp_path / "wave.safetensors")})
    with torch.no_grad():
        wanted = theirs(value("audio")[:, 0])[0]
        assert torch.allclose(encoder.token_features(value("audio"))[0], wanted, atol=1e-6)


def test_a_sound_at_another_rate_is_resampled() -> None:
    slow = AudioPreprocess(RATE_HZ // 2, SAMPLES / RATE_HZ, 16, representation="waveform")
    spec = encoder_spec(read(WAVE), slow, "audio")
    encoder = make_encoder(spec, "audio", slow.shape, None, encoder_start(read(WAVE))).eval()
    times = torch.arange(SAMPLES) / RATE_HZ
    tone = (2 * torch.pi * 440 * times).sin()[None, None] * 0.5
    x_BTD, fast_BTD = encoder.token_features(tone[..., ::2])[0], made(WAVE).token_features(tone)[0]
    assert x_BTD.shape == fast_BTD.shape
    assert F.cosine_similarity(x_BTD[0, 5:-5], fast_BTD[0, 5:-5]).mean() > 0.95


# ---------------------------------------------------------------- what of them learns


@each_model
def test_a_frozen_trunk_does_not_move_in_training_and_its_head_does(raw: dict[str, Any]) -> None:
    encoder = made(raw, width=6, trainable="head")
    before = copy.deepcopy(encoder.state_dict())
    learn(encoder, slot_of(raw))
    moved = {name for name, each in encoder.state_dict().items() if not torch.equal(each, before[name])}
    # running statistics of batch norms are in there, and did not move either
    assert moved == {"project.weight", "project.bias"}
    encoder.train()
    assert torch.equal(encoder(value(slot_of(raw))), encoder(value(slot_of(raw)))), "dropout in a frozen trunk"


@each_model
def test_all_of_it_learns_where_it_is_asked_to(raw: dict[str, Any]) -> None:
    encoder = made(raw, width=6, trainable="all")
    before = copy.deepcopy(encoder.state_dict())
    learn(encoder, slot_of(raw))
    moved = {name for name, each in encoder.state_dict().items() if not torch.equal(each, before[name])}
    assert any(name.startswith("trunk.") for name in moved)
    assert encoder.trunk.training is False
    assert encoder.train().trunk.training


def test_nothing_of_a_frozen_one_learns() -> None:
    assert not any(each.requires_grad for each in made(BERT, width=6, trainable="frozen").parameters())


@pytest.mark.parametrize("raw", [CLIP, BERT, WAVE, TORCHAUDIO], ids=lambda raw: raw["kind"])
def test_adapters_start_as_the_identity_and_learn_with_the_head_alone(raw: dict[str, Any]) -> None:
    plain, encoder = made(raw, trainable="frozen"), made(raw, trainable="adapters")
    slot = slot_of(raw)
    assert torch.allclose(plain(value(slot)), encoder(value(slot)), atol=1e-6)
    before = copy.deepcopy(encoder.state_dict())
    learn(encoder, slot)
    moved = {name for name, each in encoder.state_dict().items() if not torch.equal(each, before[name])}
    assert moved
    assert all(".adapter." in name for name in moved)
    assert {name.split(".adapter.")[0] for name in before if ".adapter." in name} == {
        name.split(".adapter.")[0] for name in moved
    }, "an adapter after each block"


@each_model
def test_it_is_whole_without_the_folder_it_came_from(raw: dict[str, Any]) -> None:
    settings, slot = read(raw, width=6), slot_of(raw)
    first = made(raw, width=6)
    learn(first, slot)
    again = make_encoder(encoder_spec(settings, hows()[slot], slot), slot, shape_of(slot), 6)
    load_weights(again, weights_of(first), "encoder")
    assert torch.equal(again.eval()(value(slot)), first(value(slot)))


# ---------------------------------------------------------------- what they refuse


def test_what_a_slot_or_a_model_cannot_do_is_refused_by_name() -> None:
    mel = AudioPreprocess(RATE_HZ, 0.6, 16)
    for raw in (WAVE, TORCHAUDIO):
        with pytest.raises(ConfigError, match=r"wanted waveforms .* set the slot's `representation: waveform`"):
            make_encoder(encoder_spec(read(raw), mel, "audio"), "audio", mel.shape)
    with pytest.raises(ConfigError, match=r"encoders.text.kind: transformers_image reads image, this slot is text"):
        encoder_spec(read(CLIP), hows()["text"], "text")
    with pytest.raises(ConfigError, match=r"clip reads no audio"):
        made({**WAVE, "source": "clip"})
    with pytest.raises(ConfigError, match="model of waveforms 'bert'"):
        made({**WAVE, "source": "bert"})
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        made({**TORCHVISION, "model": "resnet81"})
    with pytest.raises(ConfigError, match="ResNet has no blocks of one width for adapters"):
        made({**TORCHVISION, "trainable": "adapters"})
    with pytest.raises(ConfigError, match="options of wav2vec2_model"):
        made({**TORCHAUDIO, "options": {"nothing": 1}})
    with pytest.raises(ConfigError, match="is made from its settings, not from its name alone"):
        make_encoder("transformers_text", "text", (12, 30))


def test_a_text_encoder_without_tokenizers_says_so() -> None:
    spec = encoder_spec(read(BERT), hows()["text"], "text")
    bare = make_encoder(spec, "text", shape_of("text"), 6)
    assert isinstance(bare, TransformersText)
    with pytest.raises(IntegrityError, match="wanted both tokenizers"):
        bare(value("text"))
