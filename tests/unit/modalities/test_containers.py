"""Lengths that containers tell, true ones and lies, against what libraries wrote."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmgen.modalities.audio import AudioMedia
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.containers import cut_image, cut_sound, flac_frames, with_flac_frames, wrong_size
from mmgen.modalities.image import ImageMedia

RATE = 16_000
FRAMES = 4_800


def tone(frames: int = FRAMES, channels: int = 1) -> np.ndarray:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(frames) / RATE)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def encoded(samples: np.ndarray, form: str = "WAV", rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype="PCM_16")
    return stream.getvalue()


def wav(*, riff: int | None = None, samples: int | None = None, after: bytes = b"", before: bytes = b"") -> bytes:
    """16-bit mono of 4,800 frames. riff, samples: sizes that its header tells, true ones if None."""
    pcm = (tone()[:, 0] * 32_767).astype("<i2").tobytes()
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16) + before
    body = head + b"data" + struct.pack("<I", len(pcm) if samples is None else samples) + pcm + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


def found(data: bytes) -> tuple[list[tuple[str, str]], int | None]:
    """(findings, frames that are decoded; None if rejected)."""
    probe = AudioMedia().probe(data, CheckConfig())
    frames = None if probe.rejected else AudioMedia().decode(data)[0].shape[1]
    if frames is not None:
        assert probe.facts["seconds"] == pytest.approx(frames / RATE)
    return [(each.reason, each.severity) for each in probe.findings], frames


TRUNCATED = ([("truncated", "reject")], None)
LIES = [("wrong_size", "flag")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (wav(), ([], FRAMES)),
        # two gigabytes that are not there: of the file it is cut off, of the samples alone the header lies
        (wav(riff=2**31, samples=2**31), TRUNCATED),
        (wav(samples=2**31), (LIES, FRAMES)),
        (wav(samples=2 * FRAMES + 10), (LIES, FRAMES)),
        (wav(samples=FRAMES), (LIES, FRAMES // 2)),
        (wav(riff=0xFFFFFFFF, samples=3 * FRAMES), TRUNCATED),
        # what writers leave that do not know the end yet
        (wav(riff=0xFFFFFFFF, samples=0xFFFFFFFF), ([], FRAMES)),
        (wav(riff=0x7FFFF024, samples=0x7FFFF000), ([], FRAMES)),
        # other chunks before and behind, and bytes behind the file
        (wav(before=b"LIST" + struct.pack("<I", 10) + bytes(10)), ([], FRAMES)),
        (wav(after=b"LIST" + struct.pack("<I", 10) + bytes(10)), ([], FRAMES)),
        (wav() + b"PK\3\4" + bytes(300), ([], FRAMES)),
        (wav(before=b"LIST" + struct.pack("<I", 0xFFFFFF00)), ([("undecodable", "reject")], None)),
    ],
)  # fmt: skip
def test_sizes_of_a_wave(data: bytes, expected: tuple[list[tuple[str, str]], int | None]) -> None:
    assert found(data) == expected


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [
        (FRAMES, ([], FRAMES)),
        # unknown, which the format allows
        (0, ([], FRAMES)),
        (10, (LIES, FRAMES)),
        (FRAMES - 1, (LIES, FRAMES)),
        (FRAMES + 1, TRUNCATED),
        (2**36 - 1, TRUNCATED),
    ],
)
def test_a_flac_whose_header_lies_is_decoded_whole_or_rejected(
    claimed: int, expected: tuple[list[tuple[str, str]], int | None]
) -> None:
    assert found(with_flac_frames(encoded(tone(), "FLAC"), claimed)) == expected


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30_000), st.integers(1, 3), st.sampled_from([8_000, 12_345, 44_100, 96_000, 192_000]), st.booleans()
)
def test_the_last_frame_of_a_flac_tells_its_length(frames: int, channels: int, rate: int, noise: bool) -> None:
    samples = np.random.default_rng(frames).normal(0, 0.1, (frames, channels)) if noise else tone(frames, channels)
    data = encoded(samples.astype(np.float32), "FLAC", rate)
    assert flac_frames(data) == (frames, frames)
    assert flac_frames(with_flac_frames(data, 7)) == (7, frames)
    assert (cut_sound(data, "flac"), wrong_size(data, "flac")) == (None, None)


@pytest.mark.parametrize("tail", [2, 3])
def test_a_flac_that_ends_in_what_looks_like_a_frame_begins_is_read(tail: int) -> None:
    data = encoded(tone(), "FLAC")
    begin = data.index(b"\xff\xf8")
    assert flac_frames(data + data[begin : begin + tail]) == (FRAMES, FRAMES)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading_of_lengths(data: bytes) -> None:
    for start in (b"", b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\0\xff\xf8", b"RIFF\0\0\0\0WAVE", b"\xff\xd8"):
        for ext in ("wav", "flac", "aiff"):
            cut_sound(start + data, ext)
            wrong_size(start + data, ext)
        for ext in ("png", "jpg", "webp", "gif", "bmp", "tif"):
            cut_image(start + data, ext)


# ---------------------------------------------------------------- images


def jpeg(*, progressive: bool = False, exif: bytes = b"") -> bytes:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((96, 64))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", progressive=progressive, exif=exif)
    return stream.getvalue()


#: a thumbnail with an end of its own
EXIF = b"Exif\0\0" + bytes(20) + b"\xff\xd8\xff\xd9" + bytes(20)


@pytest.mark.parametrize("progressive", [False, True])
def test_what_lies_behind_a_jpeg_does_not_hide_its_end(progressive: bool) -> None:
    """Telephones append a film to the picture, some programs an archive."""
    data = jpeg(progressive=progressive, exif=EXIF)
    probe = ImageMedia().probe(data + b"ftypmp42" + bytes(50_000), CheckConfig())
    assert probe.findings == ()
    assert probe.facts["width"] == 96
    # the end in the thumbnail is not that of the picture
    assert cut_image(data[:-2] + bytes(50_000), "jpg") == "jpeg without its end marker"
    assert cut_image(data[:-2], "jpg") == "jpeg without its end marker"
