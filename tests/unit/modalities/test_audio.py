from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgen.errors import SourceError
from mmgen.modalities.audio import AudioMedia, downmix
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.probing import hash64, similarity

MEDIA = AudioMedia()
LIMITS = CheckConfig()
RATE = 16_000
FORMATS = {
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}  # fmt: skip


def sound(seconds: float = 0.3, seed: int = 0) -> np.ndarray:
    """A melody of eight notes, (frames,) float32."""
    rng = np.random.default_rng(seed)
    note = int(seconds * RATE / 8)
    time = np.arange(note) / RATE
    notes = [np.sin(2 * np.pi * hertz * time) * np.hanning(note) for hertz in rng.uniform(150, 5000, 8)]
    return (0.3 * np.concatenate(notes)).astype(np.float32)


def encoded(samples: np.ndarray, form: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def reasons(data: bytes, limits: CheckConfig = LIMITS) -> list[tuple[str, str]]:
    return [(finding.reason, finding.severity) for finding in MEDIA.probe(data, limits).findings]


@pytest.mark.parametrize("ext", FORMATS)
def test_every_format_is_sniffed_measured_and_decoded(ext: str) -> None:
    data = encoded(np.stack([sound(), sound()], axis=1), *FORMATS[ext])
    probe = MEDIA.probe(data, LIMITS)
    assert (probe.ext, probe.findings) == (ext, ())
    assert (probe.facts["rate_hz"], probe.facts["channels"]) == (RATE, 2)
    assert probe.facts["seconds"] == pytest.approx(0.3, abs=0.08)
    assert set(probe.facts) == set(MEDIA.facts)
    assert all(isinstance(probe.facts[name], kind) for name, kind in MEDIA.facts.items())
    samples, rate = MEDIA.decode(data)
    assert (samples.shape[0], samples.dtype, rate) == (2, np.float32, RATE)
    assert ext in MEDIA.extensions


# a cut MP3 is found as well, but its library writes to the terminal for each one
@pytest.mark.parametrize("ext", ["wav", "flac", "ogg", "aiff"])
def test_truncation_anywhere_is_rejected(ext: str) -> None:
    data = encoded(sound(0.1), *FORMATS[ext])
    lengths = {*range(0, len(data), 13), *range(max(0, len(data) - 40), len(data))}
    assert [length for length in sorted(lengths) if not MEDIA.probe(data[:length], LIMITS).rejected] == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["wav", "flac", "ogg", "aiff"]), st.data())
def test_broken_bytes_are_findings_never_errors(ext: str, data: st.DataObject) -> None:
    broken = bytearray(encoded(sound(0.05), *FORMATS[ext]))
    for at in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=8)):
        broken[at] = data.draw(st.integers(0, 255))
    probe = MEDIA.probe(bytes(broken), LIMITS)
    assert probe.rejected or set(probe.facts) == set(MEDIA.facts)


def test_encode_then_decode_is_within_a_sixteen_bit_step() -> None:
    value = np.stack([sound(seed=0), sound(seed=1)])
    data = MEDIA.encode((value, RATE))
    assert MEDIA.sniff(data) == "wav"
    back, rate = MEDIA.decode(data)
    assert rate == RATE
    np.testing.assert_allclose(back, value, atol=1 / 32767)


@pytest.mark.parametrize("value", [np.zeros(10, np.float32), np.full((1, 10), np.nan, np.float32)])
def test_encode_refuses_other_shapes_and_nan(value: np.ndarray) -> None:
    with pytest.raises(ValueError, match="wanted finite"):
        MEDIA.encode((value, RATE))


def test_undecodable_bytes_are_a_source_error() -> None:
    with pytest.raises(SourceError, match="audio: wanted sound that can be decoded, came 5 bytes"):
        MEDIA.decode(b"hello")


def test_level_and_peak_are_of_full_scale() -> None:
    facts = MEDIA.probe(encoded(np.tile(np.float32([0.5, -0.5]), 4000), "WAV", "FLOAT"), LIMITS).facts
    assert facts["rms_db"] == pytest.approx(20 * np.log10(0.5), abs=0.01)
    assert facts["peak"] == pytest.approx(0.5)
    assert facts["seconds"] == 0.5


# ---------------------------------------------------------------- checks


def test_zero_bytes_are_rejected() -> None:
    assert reasons(b"") == [("zero_bytes", "reject")]


@pytest.mark.parametrize("data", [b"hello world", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\x10JFIF"])
def test_what_is_no_sound_is_rejected(data: bytes) -> None:
    assert reasons(data) == [("not_audio", "reject")]


def test_bytes_over_the_cap_are_rejected() -> None:
    assert reasons(encoded(sound()), CheckConfig(max_audio_bytes=100)) == [("too_many_bytes", "reject")]


def test_length_over_the_cap_is_rejected_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(sound())
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **options: pytest.fail("decoded"))
    assert reasons(data, CheckConfig(max_audio_seconds=0.2)) == [("too_long", "reject")]


def test_a_click_is_too_short() -> None:
    assert reasons(encoded(sound()[:100])) == [("too_short", "reject")]


def test_channels_over_the_cap_are_rejected() -> None:
    data = encoded(np.stack([sound()] * 3, axis=1))
    assert reasons(data, CheckConfig(max_audio_channels=2)) == [("too_many_channels", "reject")]


def test_silence_is_rejected() -> None:
    assert reasons(encoded(np.zeros(8000, np.float32))) == [("silent", "reject")]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_rejected(bad: float) -> None:
    samples = sound()
    samples[7] = bad
    assert reasons(encoded(samples, "WAV", "FLOAT")) == [("not_finite", "reject")]


def test_a_cut_off_file_is_truncated() -> None:
    assert reasons(encoded(sound())[:-50]) == [("truncated", "reject")]


def test_a_streamed_wav_of_unknown_length_is_accepted() -> None:
    data = bytearray(encoded(sound()))
    data[4:8] = b"\xff\xff\xff\xff"
    assert reasons(bytes(data)) == []


def test_broken_flac_is_undecodable_or_truncated() -> None:
    data = encoded(sound(), "FLAC")
    assert reasons(data[:60])[0][0] in ("undecodable", "truncated")


def test_clipping_is_flagged_and_kept() -> None:
    data = encoded(np.clip(sound() * 20, -1, 1))
    assert reasons(data) == [("clipped", "flag")]
    assert not MEDIA.probe(data, LIMITS).rejected


# ---------------------------------------------------------------- near duplicates


def thumbnail(data: bytes) -> np.ndarray:
    thumb = MEDIA.thumbnail(data)
    assert thumb is not None
    return thumb


def hash_of(data: bytes) -> int:
    return int(MEDIA.probe(data, LIMITS).facts["ahash"], 16)


def test_hash_and_thumbnail_survive_format_loudness_and_rate_but_tell_sounds_apart() -> None:
    first, quiet = encoded(sound(0.9)), encoded(sound(0.9) * 0.3, "OGG", "VORBIS")
    other = encoded(sound(0.9, seed=5))
    assert (hash_of(first) ^ hash_of(quiet)).bit_count() <= 6
    assert (hash_of(first) ^ hash_of(other)).bit_count() >= 12
    one, same, apart = (thumbnail(data) for data in (first, quiet, other))
    assert one.shape == (32, 32)
    assert one.min() >= 0
    assert one.max() <= 1
    assert similarity(one, same) > 0.95
    assert similarity(one, apart) < 0.8


def test_another_pace_is_another_sound() -> None:
    slow, fast = thumbnail(encoded(sound(0.9))), thumbnail(encoded(sound(0.6)))
    assert similarity(slow, fast) < 0.9


@pytest.mark.parametrize("rate", [100, 4_000, 8_000, 44_100, 192_000])
def test_thumbnail_exists_at_any_rate(rate: int) -> None:
    thumb = thumbnail(encoded(sound(), rate=rate))
    assert np.isfinite(thumb).all()
    assert thumb.max() == 1


def test_float_samples_far_beyond_full_scale_are_probed_without_overflow() -> None:
    loud = np.full((2, 4_000), 3e38, np.float32) * np.sign(np.sin(np.arange(4_000) / 9)).astype(np.float32)
    sink = io.BytesIO()
    soundfile.write(sink, loud.T, 16_000, format="WAV", subtype="FLOAT")
    probed = AudioMedia().probe(sink.getvalue(), CheckConfig())
    assert probed.facts["peak"] > 1e38
    assert AudioMedia().thumbnail(sink.getvalue()) is not None


def test_broken_headers_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    sink = io.BytesIO()
    soundfile.write(sink, np.zeros(4_000, np.float32), 16_000, format="AIFF")
    whole = sink.getvalue()
    for at in range(len(whole[:100])):
        for value in (0, 128, 255):
            AudioMedia().probe(whole[:at] + bytes([value]) + whole[at + 1 :], CheckConfig())
    assert capfd.readouterr() == ("", "")


ODD = {
    "8 bit": ("WAV", "PCM_U8", 16_000, 30), "24 bit": ("WAV", "PCM_24", 44_100, 90),
    "32 bit": ("WAV", "PCM_32", 44_100, 90), "float": ("WAV", "FLOAT", 44_100, 90),
    "double": ("WAV", "DOUBLE", 44_100, 90), "µ-law": ("WAV", "ULAW", 8_000, 25), "A-law": ("WAV", "ALAW", 8_000, 25),
    "IMA ADPCM": ("WAV", "IMA_ADPCM", 16_000, 20), "MS ADPCM": ("WAV", "MS_ADPCM", 16_000, 20),
    "WAVEX": ("WAVEX", "PCM_16", 48_000, 70), "RF64": ("RF64", "PCM_16", 48_000, 70),
    "FLAC": ("FLAC", "PCM_24", 96_000, 90), "Vorbis": ("OGG", "VORBIS", 44_100, 15),
    "Opus": ("OGG", "OPUS", 48_000, 10),
    "MP3": ("MP3", "MPEG_LAYER_III", 44_100, 10), "AIFF": ("AIFF", "PCM_16", 44_100, 70),
    "4 kHz": ("WAV", "PCM_16", 4_000, 70), "192 kHz": ("WAV", "PCM_24", 192_000, 90),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_but_good_sounds_come_through_decoded_right(name: str) -> None:
    form, subtype, rate, least_db = ODD[name]
    time = np.arange(rate // 2) / rate
    wave = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    data = encoded(wave, form, subtype, rate)
    assert reasons(data) == []
    samples, came = MEDIA.decode(data)
    assert came == rate
    # codecs may add silence at the ends; what counts is the tone: its frequency, and how little else there is
    power = np.square(np.abs(np.fft.rfft(samples[0] * np.hanning(samples.shape[1]))))
    peak = int(power.argmax())
    assert abs(peak * rate / samples.shape[1] - 440) < 4
    around = power[max(0, peak - 8) : peak + 9].sum()
    assert 10 * np.log10(around / max(power.sum() - around, 1e-30)) > least_db


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from([("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAVEX", "PCM_16"), ("AIFF", "PCM_16"),
                          ("AIFF", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_S8"), ("RF64", "PCM_16")]),
    channels=st.integers(1, 3), levels=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=50),
)  # fmt: skip
def test_short_samples_decode_to_what_libsndfile_makes_of_them(
    form: tuple[str, str], channels: int, levels: list[int]
) -> None:
    samples = np.repeat(np.array(levels, np.int16)[:, None], channels, axis=1)
    samples[:, 0] = samples[::-1, 0]
    data = encoded(samples, *form)
    wanted, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(MEDIA.decode(data)[0], wanted.T)


def test_the_hash_in_the_facts_is_that_of_the_thumbnail() -> None:
    rng = np.random.default_rng(3)
    for channels, scale in ((1, 0.5), (2, 0.5), (6, 3.0)):
        data = encoded(rng.normal(0, scale, (9_000, channels)).astype(np.float32), subtype="FLOAT")
        assert MEDIA.probe(data, LIMITS).facts["ahash"] == hash64(thumbnail(data))


def test_a_sum_of_channels_does_not_cancel() -> None:
    wave = sound()
    opposite = encoded(np.stack([wave, -wave], axis=1))
    assert reasons(opposite) == [("antiphase", "flag")]
    mono = downmix(MEDIA.decode(opposite)[0])
    assert np.square(mono).mean() == pytest.approx(np.square(wave).mean(), rel=0.01)
    # the copy with the sign turned is the same sound: its hash says so
    assert similarity(MEDIA.thumbnail(opposite), MEDIA.thumbnail(encoded(wave))) > 0.99


@pytest.mark.parametrize("channels", [2, 6, 8])
def test_one_speaker_among_silent_channels_is_no_antiphase(channels: int) -> None:
    samples = np.zeros((channels, len(sound())), np.float32)
    samples[1] = sound()
    assert reasons(encoded(samples.T)) == []
    assert np.allclose(downmix(samples), sound() / channels)


def test_a_mean_far_from_zero_is_flagged() -> None:
    assert reasons(encoded(sound() + 0.2, subtype="FLOAT")) == [("dc_offset", "flag")]
    assert reasons(encoded(sound() + 0.2, subtype="FLOAT"), CheckConfig(max_dc_offset=0.3)) == []


def test_sound_that_is_small_only_while_it_is_packed_is_rejected_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(np.zeros((RATE * 10, 2), np.float32), "FLAC")
    limits = CheckConfig(max_audio_bytes=RATE * 10 * 2)
    assert len(data) < limits.max_audio_bytes / 10
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **options: pytest.fail("decoded"))
    assert reasons(data, limits) == [("too_many_bytes", "reject")]


@pytest.mark.parametrize("form", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_six_channels_come_through_and_their_sum_is_the_mean(form: tuple[str, str]) -> None:
    rate = 48_000
    samples = np.stack([sound(seed=3) * weight for weight in (1, 1, 1, 0.5, 0.5, 0.05)], axis=1)
    data = encoded(samples, *form, rate)
    assert reasons(data) == []
    decoded, came = MEDIA.decode(data)
    assert (decoded.shape[0], came) == (6, rate)
    # lossy codecs order channels as they like, and keep only the depths of the last, and Opus
    # is not true to the phase of so short a clip; the sum has all of them
    mono, wanted = downmix(decoded)[:4_000], samples.mean(axis=1)[:4_000]
    alike = np.correlate(mono, wanted, "full").max() / np.linalg.norm(mono) / np.linalg.norm(wanted)
    assert alike > (0.6 if form[1] == "OPUS" else 0.97)


@pytest.mark.parametrize("form", [("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS")])
def test_a_container_without_samples_is_too_short(form: tuple[str, str]) -> None:
    assert reasons(encoded(np.zeros(0, np.float32), *form)) == [("too_short", "reject")]


@pytest.mark.parametrize(
    "data",
    [b"MThd\0\0\0\6", b"#EXTM3U\nhttp://there/x", b"[playlist]\nFile1=http://there/x", b"RIFF\0\0\0\0AVI LIST",
     b"\0\0\0\x20ftypM4A ", b"ID3", b"ID3\3\0\0\x7f\x7f\x7f\x7f"],
)  # fmt: skip
def test_other_containers_and_playlists_are_no_sound(data: bytes) -> None:
    assert MEDIA.probe(data + bytes(100), LIMITS).rejected


def test_what_is_wrong_is_told_in_the_same_words_each_time() -> None:
    """Messages are bytes of the quarantine: nothing of this process may be in them."""
    broken = encoded(sound())[:22] + b"\0\0" + encoded(sound())[24:]
    one, other = (MEDIA.probe(broken, LIMITS).findings[0].message for _ in range(2))
    assert one == other == "wav that cannot be decoded: Channel count is zero."
    with pytest.raises(SourceError, match=r"came \d+ bytes: Channel count is zero"):
        MEDIA.decode(broken)
