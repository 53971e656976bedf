"""Bytes to tensors to values, and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmgen.errors import ConfigError, IntegrityError, SourceError
from mmgen.modalities.audio import AudioMedia
from mmgen.modalities.config import AudioSlot, ImageSlot, TextSlot
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess, draw
from mmgen.preprocess.table import PREPROCESSES, preprocess, preprocesses
from mmgen.preprocess.text import BOS, EOS, PAD, TextPreprocess, Tokenizer
from mmgen.preprocess.wave_mel import WaveMel, is_waveform
from mmgen.records import MODALITIES

CAPTIONS = ["a thin seven, slanted", "seven spoken fast", "the digit 3", "drei – né ☃"]


def png(height: int, width: int, channels: int = 1, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(out, "PNG")
    return out.getvalue()


def wav(samples: np.ndarray, rate: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype="FLOAT")
    return out.getvalue()


def tone(hertz: float, seconds: float, rate: int) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


# ---------------------------------------------------------------- image


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_its_own_size_comes_back_pixel_for_pixel(channels: int) -> None:
    how = ImagePreprocess(16, channels)  # type: ignore[arg-type]
    data = png(16, 16, channels)
    compact = how.compact(data, "k")
    assert (compact.shape, compact.dtype) == ((channels, 16, 16), np.uint8)
    back = how.files(how.value(torch.from_numpy(compact)[None]))[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(back))), np.asarray(Image.open(io.BytesIO(data))))


def test_image_values_are_normalised_by_mean_and_std() -> None:
    how = ImagePreprocess(8, 1, mean=0.25, std=2.0)
    value = how.value(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 8, 8))
    assert value[0].unique().item() == pytest.approx(-0.125)
    assert value[1].unique().item() == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("resize", "wanted"), [("stretch", (8, 8)), ("fit", (8, 8)), ("pad", (8, 8))], ids=["stretch", "fit", "pad"]
)
def test_every_resize_gives_the_square(resize: str, wanted: tuple[int, int]) -> None:
    how = ImagePreprocess(8, 1, resize=resize)  # type: ignore[arg-type]
    for height, width in ((8, 24), (24, 8), (3, 5), (1, 40)):
        assert how.compact(png(height, width), "k").shape == (1, *wanted)


def test_fit_crops_the_centre_and_pad_keeps_all() -> None:
    wide = np.zeros((8, 24, 1), dtype=np.uint8)
    wide[:, 8:16] = 200
    out = io.BytesIO()
    Image.fromarray(wide[:, :, 0]).save(out, "PNG")
    assert (ImagePreprocess(8, 1, resize="fit").compact(out.getvalue(), "k") == 200).all()
    padded = ImagePreprocess(24, 1, resize="pad").compact(out.getvalue(), "k")[0]
    assert (padded[8:16, 8:16] == 200).all()
    assert padded[:8].max() == padded[16:].max() == 0


def test_a_random_crop_depends_on_the_key_alone() -> None:
    how = ImagePreprocess(8, 1, crop="random")
    data = png(8, 200)
    assert np.array_equal(how.compact(data, "a"), how.compact(data, "a"))
    assert len({how.compact(data, key).tobytes() for key in "abcdefgh"}) > 1
    assert {draw(str(key), 3) for key in range(50)} == {0, 1, 2}


def test_bytes_that_are_no_image_are_a_source_error() -> None:
    with pytest.raises(SourceError, match="image: wanted"):
        ImagePreprocess(8).compact(b"no image", "k")


# ---------------------------------------------------------------- audio


def audio(**more: object) -> AudioPreprocess:
    base: dict[str, object] = {"sample_rate_hz": 8000, "seconds": 0.5, "mels": 32, "n_fft": 512, "hop": 125}
    return AudioPreprocess(**{**base, **more})  # type: ignore[arg-type]


def test_a_log_mel_has_the_declared_shape_and_its_loudest_band_is_the_tone() -> None:
    how = audio()
    compact = how.compact(wav(tone(1000, 0.5, 8000), 8000), "k")
    assert (compact.shape, compact.dtype) == (how.shape, np.float16)
    assert how.shape == (32, 32)
    mel = 2595 * np.log10(1 + np.array([1000, 4000]) / 700)
    assert abs(compact[:, 16].argmax() - (mel[0] / mel[1] * 33 - 1)) <= 1


def test_resampling_changes_little_and_stereo_is_mixed() -> None:
    how = audio()
    plain = how.compact(wav(tone(500, 0.5, 8000), 8000), "k").astype(np.float32)
    fast = how.compact(wav(tone(500, 0.5, 24000), 24000), "k").astype(np.float32)
    stereo = how.compact(wav(np.stack([tone(500, 0.5, 8000)] * 2, axis=1), 8000), "k").astype(np.float32)
    loud = plain > 0
    assert np.abs(plain - fast)[loud].mean() < 0.1
    assert np.array_equal(plain, stereo)


def test_a_short_clip_is_padded_with_silence_and_a_long_one_is_cropped() -> None:
    how = audio()
    short = how.compact(wav(tone(500, 0.1, 8000), 8000), "k")
    assert (short[:, 20:] == -8).all()
    long = tone(500, 2, 8000)
    long[4000:] = 0
    assert how.compact(wav(long, 8000), "k")[:, 10].max() > 0
    assert how.compact(wav(long[::-1].copy(), 8000), "k").max() == -8
    assert how.clip(torch.arange(10_000), 8000)[0] == 0
    assert audio(crop="centre").clip(torch.arange(10_000), 8000)[0] == 3000
    starts = {int(audio(crop="random").clip(torch.arange(10_000), 8000, str(key))[0]) for key in range(9)}
    assert len(starts) > 1


def test_values_map_the_log_range_to_plus_minus_one() -> None:
    value = audio(log_floor=-6, log_ceiling=2).value(torch.tensor([-6.0, -2.0, 2.0], dtype=torch.float16))
    assert value.tolist() == [-1.0, 0.0, 1.0]


def test_sound_comes_back_with_its_spectrum_the_same_each_time() -> None:
    how = audio()
    samples = tone(700, 0.5, 8000) * np.linspace(0, 1, 4000, dtype=np.float32)
    value = how.value(torch.from_numpy(how.compact(wav(samples, 8000), "k"))[None])
    first, again = how.files(value), how.files(value)
    assert first == again
    heard, rate = soundfile.read(io.BytesIO(first[0]))
    assert (rate, len(heard)) == (8000, 4000)
    spectrum = np.abs(np.fft.rfft(heard))
    assert abs(np.argmax(spectrum) * 2 - 700) < 40
    back = how.value(torch.from_numpy(how.compact(first[0], "k"))[None])
    loud = value > 0
    assert (value - back)[loud].abs().mean() < 0.1


def test_making_sound_leaves_the_global_random_stream_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    audio().waves(torch.zeros(1, 32, 32))
    assert torch.rand(1) == wanted


@pytest.mark.parametrize(
    ("more", "named"),
    [({"f_max_hz": 5000.0}, "f_max_hz"), ({"f_min_hz": 4000.0}, "f_min_hz"), ({"log_ceiling": -9.0}, "log_ceiling"),
     ({"mels": 300}, "mels"), ({"hop": 300}, "hop")],
)  # fmt: skip
def test_impossible_mel_settings_are_named(more: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        audio(**more)


def test_bytes_that_are_no_sound_are_a_source_error() -> None:
    with pytest.raises(SourceError, match="audio: wanted"):
        audio().compact(b"RIFF", "k")


# ---------------------------------------------------------------- text


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.fit(CAPTIONS * 3, 300)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_that_fits_decodes_to_itself(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, 200)) == text


def test_a_row_is_bos_ids_eos_pads_and_truncation_keeps_the_eos(tokenizer: Tokenizer) -> None:
    row = tokenizer.encode("seven", 12)
    end = tokenizer.count("seven") - 1
    assert (row[0], row[end], row.dtype, len(row)) == (BOS, EOS, np.int32, 12)
    assert (row[end + 1 :] == PAD).all()
    assert tokenizer.encode("seven " * 20, 6)[-1] == EOS


def test_what_looks_like_a_special_token_is_text(tokenizer: Tokenizer) -> None:
    row = tokenizer.encode("<pad><eos>", 40)
    assert (row == EOS).sum() == 1
    assert tokenizer.decode(row) == "<pad><eos>"


def test_the_order_of_texts_does_not_change_a_tokenizer_and_json_is_canonical(tokenizer: Tokenizer) -> None:
    assert Tokenizer.fit(CAPTIONS[::-1] * 3, 300).to_json() == tokenizer.to_json()
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.to_json() == tokenizer.to_json()
    assert np.array_equal(again.encode("drei ☃", 30), tokenizer.encode("drei ☃", 30))


@pytest.mark.parametrize("data", [b"{}", b"\xff", b'{"version": "1.0"}'])
def test_a_broken_tokenizer_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="tokenizer"):
        Tokenizer.from_json(data)


def test_text_files_are_utf8(tokenizer: Tokenizer) -> None:
    how = TextPreprocess(tokenizer, 40)
    value = how.value(torch.from_numpy(how.compact("né ☃".encode(), "k"))[None])
    assert (value.dtype, how.files(value)) == (torch.int64, ["né ☃".encode()])
    with pytest.raises(SourceError, match="UTF-8"):
        how.compact(b"\xff\xfe", "k")


# ---------------------------------------------------------------- table


def test_the_table_has_every_modality_and_builds_what_a_slot_declares(tokenizer: Tokenizer) -> None:
    assert set(PREPROCESSES) == set(MODALITIES)
    slots = {
        "b": ImageSlot(size_px=8, column="x"),
        "a": AudioSlot(mels=16, f_max_hz=4000.0),
        "t": TextSlot(max_tokens=9),
    }
    made = preprocesses(slots, tokenizer)
    assert list(made) == ["b", "a", "t"]
    assert {slot: each.shape for slot, each in made.items()} == {"b": (3, 8, 8), "a": (16, 64), "t": (9,)}
    for slot, each in made.items():
        value = each.value(torch.zeros((2, *each.shape), dtype=getattr(torch, each.dtype)))
        assert value.shape == (2, *each.shape), slot
    with pytest.raises(ConfigError, match=r"'t'.*tokenizer"):
        preprocess("t", slots["t"], None)


def test_a_waveform_slot_keeps_the_clip_itself() -> None:
    how = AudioPreprocess(8_000, 0.5, 16, representation="waveform")
    wave = tone(300, 0.5, 8_000)
    compact = how.compact(wav(wave, 8_000), "key")
    assert compact.shape == how.shape == (1, 4_000)
    assert compact.dtype == np.float16
    value = how.value(torch.from_numpy(compact)[None])
    assert np.abs(value.numpy()[0] - wave).max() < 1e-3
    (data,) = how.files(value)
    again, rate = AudioMedia().decode(data)
    assert rate == 8_000
    assert np.abs(again - wave).max() < 1e-3


def test_networks_for_spectrograms_hear_waveforms_by_a_spectrogram_of_theirs() -> None:
    heard = WaveMel(8_192)
    assert is_waveform((1, 8_192))
    assert not is_waveform((16, 64))
    assert not list(heard.state_dict())
    times = torch.arange(8_192) / 8_192
    low, high = (torch.sin(2 * torch.pi * hertz * times)[None, None] for hertz in (200, 2_000))
    a_MT, b_MT = heard(low)[0], heard(high)[0]
    assert a_MT.shape == heard.shape == (64, 32)
    assert a_MT.mean(1).argmax() < b_MT.mean(1).argmax()
    assert -1.1 < heard(torch.zeros(1, 1, 8_192)).min() < 0 < b_MT.max() < 1.1
    with pytest.raises(ConfigError, match="wanted waveforms of 4096 samples or more, came 4000"):
        WaveMel(4_000)
