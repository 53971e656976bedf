"""Sounds of variable length: from a clip to a value that knows its end, through a codec, and back to a file of it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmgen.artifact import fingerprint
from mmgen.codec_set import codec_names
from mmgen.codecs.audio import AudioCodec
from mmgen.codecs.config import AudioCodecConfig
from mmgen.fit_parts import codec_args
from mmgen.fusion.augment import smudge
from mmgen.generate import load
from mmgen.modalities.config import AudioSlot
from mmgen.preprocess.audio import ABSENT, AudioPreprocess, lengths, marked
from mmgen.preprocess.table import preprocess
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import sound, table_config, write_source
from tests.tiny_line import PARTS, perform

RATE_HZ, HOP, FRAMES, MELS = 8000, 125, 32, 16


def audio(**more: object) -> AudioPreprocess:
    base: dict[str, object] = {"sample_rate_hz": RATE_HZ, "seconds": 0.5, "mels": MELS, "n_fft": 256, "hop": HOP}
    return AudioPreprocess(**{**base, "variable": True, **more})  # type: ignore[arg-type]


def wav(samples: np.ndarray, rate_hz: int = RATE_HZ) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate_hz, format="WAV", subtype="FLOAT")
    return out.getvalue()


def tone(hertz: float, count: int) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(count) / RATE_HZ)).astype(np.float32)


def value_of(how: AudioPreprocess, data: bytes) -> Tensor:
    return how.value(torch.from_numpy(how.compact(data, "k"))[None])


def heard(data: bytes) -> np.ndarray:
    samples, rate_hz = soundfile.read(io.BytesIO(data))
    assert rate_hz == RATE_HZ
    return np.asarray(samples)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 6000), loudness=st.sampled_from([0.0, 1e-4, 0.5]), seed=st.integers(0, 9))
def test_a_clip_comes_back_as_long_as_it_was_to_one_frame(count: int, loudness: float, seed: int) -> None:
    how = audio()
    samples = (loudness * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)
    value = value_of(how, wav(samples))
    frames = int(lengths(value))
    assert frames == min(FRAMES, max(1, -(-count // HOP)))
    assert (value[:, :, frames:] == ABSENT).all()
    assert (value[:, :, :frames] >= -1.001).all()
    (back,) = how.files(value)
    assert 0 <= len(heard(back)) - min(count, how.samples) < HOP


def test_a_file_of_another_rate_and_a_longer_one_are_cut_at_the_cap() -> None:
    how = audio()
    data = wav(np.tile(tone(500, 1000), 6), 2 * RATE_HZ)
    assert int(lengths(value_of(how, data))) == 24
    assert int(lengths(value_of(how, wav(tone(500, 9000))))) == FRAMES
    fixed = audio(variable=False)
    assert np.array_equal(how.compact(wav(tone(500, 9000)), "k"), fixed.compact(wav(tone(500, 9000)), "k"))


def test_a_short_clip_differs_from_one_of_fixed_length_in_the_frames_after_its_end_alone() -> None:
    data = wav(tone(700, 1300))
    own, fixed = value_of(audio(), data)[0], value_of(audio(variable=False), data)[0]
    assert torch.equal(own[:, :11], fixed[:, :11])
    assert (own[:, 11:] == ABSENT).all()
    assert (fixed[:, 13:] == -1).all()


@pytest.mark.parametrize("count", [900, 4000, 7000])
def test_a_clip_of_fixed_length_is_padded_or_cropped_and_nothing_in_it_is_marked(count: int) -> None:
    how, samples = audio(variable=False, log_floor=-5.0), tone(700, count)
    whole = np.pad(samples, (0, max(0, how.samples - count)))[: how.samples]
    mel = torchaudio.transforms.MelSpectrogram(RATE_HZ, n_fft=256, hop_length=HOP, n_mels=MELS, power=1.0, f_max=4000.0)
    wanted = torch.log(mel(torch.from_numpy(whole))[:, :FRAMES].clamp(min=float(np.exp(-5.0))))
    assert how.compact(wav(samples), "k").tobytes() == wanted.numpy().astype(np.float16).tobytes()
    (data,) = how.files(value_of(how, wav(samples)))
    assert len(heard(data)) == how.samples


def test_one_frame_that_is_off_ends_nothing_and_begins_nothing() -> None:
    value = torch.full((1, MELS, FRAMES), -1.0)
    value[:, :, 20:] = ABSENT
    value[:, :, 7], value[:, :, 27] = ABSENT, 0.3
    noisy = value + 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    assert int(lengths(noisy)) == 20
    clean = marked(noisy, lengths(noisy))
    assert (clean[:, :, 20:] == ABSENT).all()
    assert clean[:, :, :20].min() == -1


def test_the_shortest_sound_has_one_frame() -> None:
    value = torch.full((2, MELS, FRAMES), ABSENT)
    assert lengths(value).tolist() == [1, 1]
    assert [len(heard(data)) for data in audio().files(value)] == [HOP, HOP]


def test_what_is_heard_after_the_end_is_silence() -> None:
    how = audio()
    value = value_of(how, wav(tone(700, 1300)))
    wave = how.waves(value)[0]
    assert wave.shape == (how.samples,)
    assert wave[:1300].abs().max() > 0.1
    assert (wave[11 * HOP :] == 0).all()


def test_a_hidden_band_of_training_is_silence_not_the_mark_of_an_end() -> None:
    value = torch.full((64, MELS, FRAMES), 0.5)
    value[:, :, 24:] = ABSENT
    smudged = smudge(value, torch.Generator().manual_seed(0))
    assert smudged[:, :, :24].min() >= -1


# ---------------------------------------------------------------- settings


def test_slots_of_fixed_length_are_identified_as_before_there_were_others() -> None:
    fixed, other = AudioSlot(), AudioSlot(variable=True)
    assert "variable" not in fixed.model_dump()
    assert other.model_dump(mode="json")["variable"] is True
    assert AudioSlot(**other.model_dump()) == other
    assert fingerprint(slot=fixed.model_dump(mode="json")) == fingerprint(slot={
        "modality": "audio", "column": None, "sample_rate_hz": 16_000, "seconds": 1.0, "mels": 64, "n_fft": 1024,
        "hop": 250, "f_min_hz": 0.0, "f_max_hz": None, "crop": "start", "log_floor": -8.0, "log_ceiling": 4.0,
    })  # fmt: skip
    made = preprocess("a", other, None)
    assert isinstance(made, AudioPreprocess)
    assert made.variable
    args = codec_args(AudioCodecConfig(), preprocess("a", fixed, None))
    assert "variable" not in args
    assert codec_args(AudioCodecConfig(), made) == {**args, "variable": True}


def test_slots_of_which_one_varies_in_length_have_a_codec_each() -> None:
    slots = {**PARTS["slots"], "other": {**PARTS["slots"]["audio"], "column": "voice", "variable": True}}
    names = codec_names(table_config(Path("none.csv"), **{**PARTS, "slots": slots}).slots)
    assert names["audio"] == "audio"
    assert names["other"] not in ("audio", "image", "text")


# ---------------------------------------------------------------- through networks


def test_a_trained_codec_gives_lengths_back_to_one_frame_those_it_never_saw_too() -> None:
    how = audio()
    rng = np.random.default_rng(0)
    counts, notes = rng.integers(400, 4000, 96), rng.uniform(200, 3000, 96)
    value = torch.cat([
        value_of(how, wav(tone(hertz, count))) for hertz, count in zip(notes, counts.tolist(), strict=True)
    ])  # fmt: skip
    torch.manual_seed(0)
    codec = AudioCodec(
        mels=MELS, frames=FRAMES, patch=4, widths=(16, 32), depth=1, latent_width=8, kl_weight=1e-3, variable=True
    )  # fmt: skip
    optimiser, noise = torch.optim.Adam(codec.parameters(), 1e-2), torch.Generator().manual_seed(1)
    for step in range(150):
        rows = torch.arange(16) + 16 * (step % 4)
        optimiser.zero_grad()
        codec.loss(value[rows], noise)["loss"].backward()
        optimiser.step()
    codec.eval()
    with torch.no_grad():
        made = codec.decode(codec.encode(value))
    wanted = lengths(value)
    assert wanted.unique().numel() > 20
    assert (lengths(made) - wanted).abs().max() <= 1
    for level, end in zip(made, lengths(made).tolist(), strict=True):
        assert (level[:, end:] == ABSENT).all()
        assert level[:, :end].min() >= -1


def _short_and_long(records: list[dict[str, str]], folder: Path) -> None:
    """Even rows last 0.05 s, odd ones 0.4 s, which is longer than the cap; texts say which."""
    for number, record in enumerate(records):
        record["caption"] = "short" if number % 2 == 0 else "long and longer"
        (folder / record["audio"]).write_bytes(sound(number, 0.05 if number % 2 == 0 else 0.4))


def test_what_a_line_makes_has_lengths_of_its_own(tmp_path: Path) -> None:
    parts: dict[str, Any] = {**PARTS, "slots": {name: PARTS["slots"][name] for name in ("text", "audio")}}
    parts["slots"]["audio"] = {**PARTS["slots"]["audio"], "variable": True}
    train = {"steps": 150, "batch_size": 16, "learning_rate": 1e-2}
    codecs = {**PARTS["codecs"], "audio": {**PARTS["codecs"]["audio"], "train": train}}
    codecs["text"] = {**PARTS["codecs"]["text"], "train": train}
    generator = {**PARTS["generator"], "width": 32, "train": train}
    table = write_source(tmp_path / "source", 40, _short_and_long)
    config = table_config(table, source={"image": None}, **{**parts, "codecs": codecs, "generator": generator})
    line = perform(
        config, Runtime(Store(tmp_path / "store"), device="cpu"),
        "ingest", "validate", "shard", "fit", "extract", "train-fusion", "train-generator", "evaluate",
    )  # fmt: skip
    found = line.made["fit"].facts["reconstruction"]["audio"]
    assert found["frames_off"] <= 2
    report = line.store.read(next(e.path for e in line.made["validate"].files if e.path.endswith("report.json")))
    assert b"left shorter than 0.25 s" in report
    assert b"cropped to 0.25 s" in report
    model = load("tiny", store=line.store, device="cpu")
    made = model.generate(text=["short", "long and longer"], to="audio", num=6, steps=8, guidance=1.0)
    counts = [len(heard(data)) for data in made["audio"]]
    assert len(set(counts)) > 1
    assert np.mean(counts[:6]) < np.mean(counts[6:])
    assert all(HOP <= count <= 2000 for count in counts)
    # what people are shown: recordings as long as they are, and what was made
    examples = [entry for entry in line.made["evaluate"].by_role("example") if entry.facts["slot"] == "audio"]
    shown = {entry.facts["side"]: set[int]() for entry in examples}
    for entry in examples:
        shown[str(entry.facts["side"])].add(len(heard(line.store.read(entry.path))))
    assert shown["given"] <= {400, 2000}
    assert shown.keys() == {"given", "made"}
