"""Sound: sniffed, checked before it is decoded, measured, decoded to arrays, encoded as WAV, through soundfile."""

from __future__ import annotations

import io
import math
from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from mmgen.errors import SourceError
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.containers import cut_sound, flac_frames, with_flac_frames, wrong_size
from mmgen.modalities.probing import THUMB_SIDE, Facts, Finding, Probe, Rule, Thumb, active_content, findings, hash64
from mmgen.records import Modality

QUIETEST_DB = -120.0
#: channels whose mean keeps less of their power than this cancel each other
CANCELLED = 0.1
FORMATS = ("wav", "flac", "ogg", "mp3", "aiff")
#: magnitudes from here on count as clipped
FULL_SCALE = 0.9999
#: what fits into 16 bits without loss
_SHORT = ("PCM_16", "PCM_S8", "PCM_U8")
#: samples of a second that the hash and the thumbnail look at, at most
_HASH_WINDOW = 1024
_HASH_RANGE_DB = 60.0
_BROKEN = (soundfile.LibsndfileError, RuntimeError, ValueError, TypeError)

RULES = (
    Rule("zero_bytes", "reject", lambda f, c: "wanted sound, came 0 bytes" if f["bytes"] == 0 else None),
    Rule(
        "too_many_bytes", "reject",
        lambda f, c: f"wanted at most {c.max_audio_bytes} bytes, came {f['bytes']}"
        if f["bytes"] > c.max_audio_bytes else None,
    ),
    Rule(
        "active_content", "reject",
        lambda f, c: f"wanted sound, came {f['active']}, which can execute or fetch" if f["active"] else None,
    ),
    Rule(
        "not_audio", "reject",
        lambda f, c: f"wanted one of {', '.join(FORMATS)}, its bytes are none" if f["ext"] is None else None,
    ),
)  # fmt: skip
HEADER_RULES = (
    Rule(
        "too_long", "reject",
        lambda f, c: f"wanted at most {c.max_audio_seconds:g} s, came {f['seconds']:.3f} s"
        if f["seconds"] > c.max_audio_seconds else None,
    ),
    Rule(
        "too_short", "reject",
        lambda f, c: f"wanted at least {c.min_audio_seconds:g} s, came {f['seconds']:.4f} s"
        if f["seconds"] < c.min_audio_seconds else None,
    ),
    Rule(
        "too_many_channels", "reject",
        lambda f, c: f"wanted at most {c.max_audio_channels} channels, came {f['channels']}"
        if f["channels"] > c.max_audio_channels else None,
    ),
    # what is packed well, silence above all, is small as a file and huge once it is decoded
    Rule(
        "too_many_bytes", "reject",
        lambda f, c: f"wanted at most {c.max_audio_bytes} bytes unpacked, 16 bits a sample, came {f['unpacked']}"
        if f["unpacked"] > c.max_audio_bytes else None,
    ),
)  # fmt: skip
CONTENT_RULES = (
    Rule("wrong_size", "flag", lambda f, c: f["wrong_size"]),
    Rule(
        "silent", "reject",
        lambda f, c: f"wanted louder than {c.silence_dbfs:g} dBFS, came {f['rms_db']:.1f}"
        if f["rms_db"] < c.silence_dbfs else None,
    ),
    Rule(
        "clipped", "flag",
        lambda f, c: f"{f['clipped']:.1%} of its samples are at full scale"
        if f["clipped"] > c.max_clipped_share else None,
    ),
    Rule(
        "dc_offset", "flag",
        lambda f, c: f"its mean is {f['offset']:+.3f} of full scale, wanted at most {c.max_dc_offset:g}"
        if abs(f["offset"]) > c.max_dc_offset else None,
    ),
    Rule(
        "antiphase", "flag",
        lambda f, c: "its channels cancel each other in a sum; the loudest one is used" if f["antiphase"] else None,
    ),
)  # fmt: skip


class _Bytes(io.BytesIO):
    """Bytes that stay where they are when broken headers make the decoder seek before their start.

    soundfile calls back from C, where an exception could only be printed.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


class AudioMedia:
    """Sound. Decoded: ((channels, frames) float32 in [-1, 1], rate in Hz)."""

    name: ClassVar[Modality] = "audio"
    extensions: ClassVar[tuple[str, ...]] = FORMATS
    facts: ClassVar[Mapping[str, type]] = {
        "seconds": float, "rate_hz": int, "channels": int, "rms_db": float, "peak": float, "ahash": str,
    }  # fmt: skip

    def sniff(self, data: bytes) -> str | None:
        """By magic numbers."""
        if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
            return "wav"
        if data.startswith(b"fLaC"):
            return "flac"
        if data.startswith(b"OggS"):
            return "ogg"
        if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
            return "aiff"
        # MPEG audio layer III: its tag, or a frame's sync word
        if data.startswith(b"ID3") or (len(data) > 2 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2):
            return "mp3"
        return None

    def refuse_size(self, size_bytes: int, limits: CheckConfig) -> Finding | None:
        """A finding if so many bytes are more than the cap."""
        found = findings(RULES[1:2], {"bytes": size_bytes}, limits)
        return found[0] if found else None

    def probe(self, data: bytes, limits: CheckConfig) -> Probe:
        """Caps are checked on the header, before any sample is decoded."""
        ext = self.sniff(data)
        if found := findings(RULES, {"bytes": len(data), "ext": ext, "active": active_content(data)}, limits):
            return Probe(ext, {}, tuple(found[:1]))
        if cut := cut_sound(data, ext):
            return Probe(ext, {}, (Finding("truncated", "reject", cut),))
        try:
            with soundfile.SoundFile(_Bytes(_playable(data, ext))) as stream:
                rate, channels, declared = int(stream.samplerate), int(stream.channels), int(stream.frames)
                header: Facts = {"seconds": declared / rate, "rate_hz": rate, "channels": channels}
                if found := findings(HEADER_RULES, header | {"unpacked": 2 * declared * channels}, limits):
                    return Probe(ext, {}, tuple(found[:1]))
                samples = _read(stream)
        except _BROKEN as error:
            return Probe(ext, {}, (Finding("undecodable", "reject", f"{ext} that cannot be decoded: {_said(error)}"),))
        if samples.shape[1] < declared:
            message = f"{ext} of {declared} frames, only {samples.shape[1]} can be read"
            return Probe(ext, {}, (Finding("truncated", "reject", message),))
        # a NaN is the largest and the smallest of all
        peak = max(float(samples.max(initial=0)), -float(samples.min(initial=0)))
        if not math.isfinite(peak):
            bad = int(samples.size - np.isfinite(samples).sum())
            return Probe(ext, {}, (Finding("not_finite", "reject", f"{bad} samples are NaN or infinite"),))
        facts, measured = _measure(samples, rate, peak)
        measured["wrong_size"] = wrong_size(data, ext)
        return Probe(ext, header | facts, tuple(findings(CONTENT_RULES, header | facts | measured, limits)))

    def decode(self, data: bytes) -> tuple[NDArray[np.float32], int]:
        """((channels, frames) float32, rate in Hz). Raises SourceError."""
        try:
            with soundfile.SoundFile(_Bytes(_playable(data, self.sniff(data)))) as stream:
                return _read(stream), int(stream.samplerate)
        except _BROKEN as error:
            raise SourceError(
                f"audio: wanted sound that can be decoded, came {len(data)} bytes: {_said(error)}"
            ) from error

    def encode(self, value: tuple[NDArray[np.float32], int]) -> bytes:
        """16-bit WAV of ((channels, frames) in [-1, 1], rate in Hz); louder is clipped."""
        samples, rate = value
        if samples.ndim != 2 or not np.isfinite(samples).all():
            raise ValueError(f"audio: wanted finite (channels, frames), came {samples.dtype} {samples.shape}")
        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(samples.T, -1, 1), rate, format="WAV", subtype="PCM_16")
        return buffer.getvalue()

    def thumbnail(self, data: bytes) -> Thumb | None:
        """Log-spectrogram, bands × time, in 0..1."""
        samples, rate = self.decode(data)
        peak = np.abs(samples).max(initial=np.float32(1))
        return _thumb(downmix(samples / peak), rate)


def _playable(data: bytes, ext: str | None) -> bytes:
    """`data`, with the number of frames that a FLAC has where its header tells less, or nothing: libsndfile stops there
    (at nothing it fails)."""
    found = flac_frames(data) if ext == "flac" else None
    return data if found is None or found[0] >= found[1] else with_flac_frames(data, found[1])


def _said(error: Exception) -> str:
    # the whole message names an object in memory, another one each time
    return str(getattr(error, "error_string", error))


def _read(stream: soundfile.SoundFile) -> NDArray[np.float32]:
    """(channels, frames) float32 of all that is left. Raises what soundfile raises."""
    if stream.subtype in _SHORT:
        # the values that libsndfile's own conversion gives, at a third of its time
        samples = stream.read(dtype="int16", always_2d=True) * np.float32(1 / 32_768)
    else:
        samples = stream.read(dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T)


def _measure(samples: NDArray[np.float32], rate_hz: int, peak: float) -> tuple[Facts, Facts]:
    """Facts of (C, N) samples, and what else the rules ask for. peak: their largest magnitude."""
    length = max(samples.shape[1], 1)
    wide = samples.astype(np.float64)
    offsets, powers = wide.sum(axis=1) / length, _powers(wide)
    cancel, power = _cancel(wide, powers), float(powers.mean())
    # what is beyond full scale is brought down to it: its sum, or its squares, might be infinite
    mono = _mixed(samples if peak <= 1 else samples / np.float32(peak), powers, cancel)
    clipped = np.count_nonzero(np.abs(samples) >= FULL_SCALE) / samples.size if peak >= FULL_SCALE else 0.0
    rms_db = 10 * math.log10(power) if power > 10 ** (QUIETEST_DB / 10) else QUIETEST_DB
    return (
        {"rms_db": round(rms_db, 3), "peak": round(peak, 6), "ahash": hash64(_thumb(mono, rate_hz))},
        {"clipped": clipped, "offset": float(offsets[np.abs(offsets).argmax()]), "antiphase": cancel},
    )


def _powers(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    # no BLAS: its threads would stand in the way of other workers, and sum in another order
    powers: NDArray[np.float64] = np.einsum("cn,cn->c", wide, wide) / max(wide.shape[1], 1)
    return powers


def _cancel(wide: NDArray[np.float64], powers: NDArray[np.float64]) -> bool:
    """Whether the mean of the channels (C, N) keeps less than a tenth of their power.

    Independent channels keep 1 / C of it, one speaker among six a sixth; opposite ones nothing.
    """
    if len(wide) < 2:
        return False
    power, kept = float(powers.mean()), float(_powers(wide.mean(axis=0)[None])[0])
    return power > 0 and kept < min(CANCELLED, 0.6 / len(wide)) * power


def _mixed(samples: NDArray[np.float32], powers: NDArray[np.float64], cancel: bool) -> NDArray[np.float32]:
    alone = cancel or len(samples) == 1
    mono: NDArray[np.float32] = samples[int(powers.argmax())] if alone else samples.mean(axis=0)
    return mono


def downmix(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) of (C, N): the mean of the channels, or the loudest one where they would cancel each other."""
    wide = samples.astype(np.float64)
    powers = _powers(wide)
    return _mixed(samples, powers, _cancel(wide, powers))


def _thumb(mono: NDArray[np.float32], rate_hz: int) -> Thumb:
    """(32 bands, 32 spans) in 0..1: log-power over the loudest 60 dB, so loudness does not matter.

    Spans divide the least of 1, 2, 4… s that holds the clip: clips of other pace do not align. Bands are spaced
    like mels from 60 Hz to 7.6 kHz, so that a clip at another sample rate has the same ones.
    """
    starts, taper, edges = _layout(max(0, math.ceil(math.log2(max(len(mono), 1) / rate_hz))), rate_hz)
    # what is after the clip's end is silence, and not transformed
    starts = starts[: bisect_left(starts, len(mono))]
    frames = np.zeros((len(starts), len(taper)), np.float32)
    for frame, start in zip(frames, starts, strict=True):
        heard = mono[start : start + len(taper)]
        frame[: len(heard)] = heard
    frames *= taper
    spectrum = np.fft.rfft(frames, axis=1)[:, : edges[-1] + 1]
    bands = np.zeros((THUMB_SIDE * 2, THUMB_SIDE), np.float32)
    # where a band is narrower than a bin (rates below 16 kHz have no top bands), reduceat takes the one bin
    np.add.reduceat(spectrum.real**2 + spectrum.imag**2, edges[:-1], axis=1, out=bands[: len(starts)])
    level = 10 * np.log10(bands.reshape(THUMB_SIDE, 2, THUMB_SIDE).mean(axis=1).T + 1e-12)
    top = level.max()
    if top <= -100:
        return np.zeros((THUMB_SIDE, THUMB_SIDE), np.float32)
    thumb: Thumb = np.clip((level - top) / _HASH_RANGE_DB + 1, 0, 1).astype(np.float32)
    return thumb


@lru_cache(maxsize=64)
def _layout(octave: int, rate_hz: int) -> tuple[list[int], NDArray[np.float32], NDArray[np.int64]]:
    """Of 2^octave s: where its frames start, their taper, and the first bin of each band with the end of the last."""
    window = max(64, int(_HASH_WINDOW * rate_hz / 16_000))
    starts = np.linspace(0, max(2**octave * rate_hz - window, 0), THUMB_SIDE * 2).astype(np.int64)
    mel = np.linspace(_mel(60.0), _mel(7_600.0), THUMB_SIDE + 1)
    edges = np.clip((_hertz(mel) * window / rate_hz).astype(np.int64), 0, window // 2)
    return starts.tolist(), np.hanning(window).astype(np.float32), edges


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return 700 * (10 ** (mel / 2595) - 1)
