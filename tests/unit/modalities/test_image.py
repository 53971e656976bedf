from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmgen.errors import SourceError
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.image import ImageMedia
from mmgen.modalities.probing import similarity

MEDIA = ImageMedia()
LIMITS = CheckConfig()
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}


def picture(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def reasons(data: bytes, limits: CheckConfig = LIMITS) -> list[tuple[str, str]]:
    return [(finding.reason, finding.severity) for finding in MEDIA.probe(data, limits).findings]


def thumbnail(data: bytes) -> np.ndarray:
    thumb = MEDIA.thumbnail(data)
    assert thumb is not None
    return thumb


@pytest.mark.parametrize(("ext", "form"), FORMATS.items())
def test_every_format_is_sniffed_measured_and_decoded(ext: str, form: str) -> None:
    data = encoded(picture(), form)
    probe = MEDIA.probe(data, LIMITS)
    assert (probe.ext, probe.findings) == (ext, ())
    assert (probe.facts["width"], probe.facts["height"]) == (24, 16)
    assert set(probe.facts) == set(MEDIA.facts)
    assert all(isinstance(probe.facts[name], kind) for name, kind in MEDIA.facts.items())
    assert MEDIA.decode(data).shape == (16, 24, 3)
    assert ext in MEDIA.extensions


@pytest.mark.parametrize(("ext", "form"), FORMATS.items())
def test_truncation_at_any_byte_is_rejected(ext: str, form: str) -> None:
    data = encoded(picture(), form)
    accepted = [length for length in range(len(data)) if not MEDIA.probe(data[:length], LIMITS).rejected]
    assert accepted == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(FORMATS.values())), st.data())
def test_broken_bytes_are_findings_never_errors(form: str, data: st.DataObject) -> None:
    broken = bytearray(encoded(picture(), form))
    for at in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=8)):
        broken[at] = data.draw(st.integers(0, 255))
    probe = MEDIA.probe(bytes(broken), LIMITS)
    assert probe.rejected or set(probe.facts) == set(MEDIA.facts)


def test_a_tiff_whose_second_directory_is_anywhere_is_a_finding() -> None:
    # Pillow answers with a TypeError where that directory names no sides
    whole = encoded(picture(), "TIFF")
    first = int.from_bytes(whole[4:8], "little")
    link = first + 2 + 12 * int.from_bytes(whole[first : first + 2], "little")
    reasons = set()
    for offset in range(0, len(whole), 2):
        broken = whole[:link] + offset.to_bytes(4, "little") + whole[link + 4 :]
        reasons |= {finding.reason for finding in MEDIA.probe(broken, LIMITS).findings}
    assert reasons >= {"undecodable"}
    assert reasons <= {"undecodable", "animated", "too_many_pixels"}


@pytest.mark.parametrize(
    "value", [np.zeros((5, 7, 1), np.uint8), np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)]
)
def test_encode_then_decode_gives_the_same_pixels(value: np.ndarray) -> None:
    data = MEDIA.encode(value)
    assert MEDIA.sniff(data) == "png"
    np.testing.assert_array_equal(MEDIA.decode(data), value)


@pytest.mark.parametrize(
    "value", [np.zeros((5, 7), np.uint8), np.zeros((5, 7, 2), np.uint8), np.zeros((5, 7, 3), np.float32)]
)
def test_encode_refuses_other_shapes_and_types(value: np.ndarray) -> None:
    with pytest.raises(ValueError, match="wanted uint8"):
        MEDIA.encode(value)


def test_exif_orientation_is_applied_to_pixels_and_sides() -> None:
    upright = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    np.testing.assert_array_equal(MEDIA.decode(turned), np.asarray(upright))
    facts = MEDIA.probe(turned, LIMITS).facts
    assert (facts["width"], facts["height"]) == (24, 16)


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    assert MEDIA.decode(encoded(clear)).tolist() == np.full((3, 3, 3), 255).tolist()


def test_sixteen_bits_keep_their_range() -> None:
    wide = Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8))
    pixels = MEDIA.decode(encoded(wide))
    assert pixels.shape == (8, 8, 1)
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)])
def test_every_mode_decodes_to_grey_or_colour(mode: str, channels: int) -> None:
    data = encoded(picture(mode=mode), "TIFF")
    assert MEDIA.decode(data).shape == (16, 24, channels)
    assert MEDIA.probe(data, LIMITS).facts["mode"] == mode


def test_undecodable_bytes_are_a_source_error() -> None:
    with pytest.raises(SourceError, match="image: wanted one that can be decoded, came 5 bytes"):
        MEDIA.decode(b"hello")


# ---------------------------------------------------------------- checks


def test_zero_bytes_are_rejected() -> None:
    assert reasons(b"") == [("zero_bytes", "reject")]


@pytest.mark.parametrize("data", [b"hello world, this is no picture", b"RIFF\0\0\0\0WAVEfmt "])
def test_what_is_no_image_is_rejected(data: bytes) -> None:
    assert reasons(data) == [("not_an_image", "reject")]


def test_bytes_over_the_cap_are_rejected() -> None:
    assert reasons(encoded(picture()), CheckConfig(max_image_bytes=50)) == [("too_many_bytes", "reject")]


def test_pixels_over_the_cap_are_rejected_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture())
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert reasons(data, CheckConfig(max_image_pixels=383)) == [("too_many_pixels", "reject")]


def test_a_decompression_bomb_is_rejected() -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    assert reasons(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + bytes(13)) == [
        ("too_many_pixels", "reject")
    ]


def test_tiny_sides_are_rejected() -> None:
    assert reasons(encoded(picture(1, 20))) == [("too_small", "reject")]


def test_a_blank_image_is_rejected() -> None:
    assert reasons(encoded(Image.new("L", (8, 8), 77))) == [("blank", "reject")]


def test_one_saturated_colour_is_blank_and_two_of_one_luminance_are_not() -> None:
    assert reasons(encoded(Image.new("RGB", (8, 8), (255, 0, 0)))) == [("blank", "reject")]
    grey = Image.new("RGB", (8, 8), (76, 76, 76))
    grey.paste((255, 0, 0), (0, 0, 4, 8))
    assert MEDIA.probe(encoded(grey), LIMITS).facts["std"] < LIMITS.blank_image_std
    assert reasons(encoded(grey)) == []


def test_mean_and_deviation_are_of_the_luminance() -> None:
    pixels = np.asarray(picture(), np.float64)
    grey = pixels @ [0.299, 0.587, 0.114] / 255
    facts = MEDIA.probe(encoded(picture()), LIMITS).facts
    assert facts["mean"] == pytest.approx(grey.mean(), abs=0.003)
    assert facts["std"] == pytest.approx(grey.std(), abs=0.003)


def test_a_file_cut_off_is_truncated() -> None:
    assert reasons(encoded(picture())[:-20]) == [("truncated", "reject")]


def test_a_flipped_byte_in_the_pixels_is_undecodable() -> None:
    data = bytearray(encoded(picture()))
    data[len(data) // 2] ^= 0xFF
    assert reasons(bytes(data)) == [("undecodable", "reject")]


def test_an_animation_is_flagged_and_kept() -> None:
    frames = [picture(), picture().rotate(90)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert reasons(data) == [("animated", "flag")]
    assert not MEDIA.probe(data, LIMITS).rejected


# ---------------------------------------------------------------- near duplicates


def test_hash_and_thumbnail_survive_another_size_and_format_but_tell_pictures_apart() -> None:
    rng = np.random.default_rng(1)
    first, other = (
        Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
        for _ in range(2)
    )
    same = encoded(first.resize((64, 64), Image.Resampling.LANCZOS), "JPEG", quality=85)
    hashes = [int(MEDIA.probe(data, LIMITS).facts["phash"], 16) for data in (encoded(first), same, encoded(other))]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4
    assert (hashes[0] ^ hashes[2]).bit_count() >= 16
    thumbs = [thumbnail(data) for data in (encoded(first), same, encoded(other))]
    assert similarity(thumbs[0], thumbs[1]) > 0.99
    assert similarity(thumbs[0], thumbs[2]) < 0.8
    assert similarity(thumbs[0], np.zeros_like(thumbs[0])) == 0


def test_a_tunable_rule_does_what_the_configuration_says() -> None:
    data = MEDIA.encode(np.full((16, 16, 3), 128, np.uint8))
    effects = {}
    for severity in ("reject", "flag", "off"):
        found = MEDIA.probe(data, CheckConfig(severity={"blank": severity})).findings
        effects[severity] = [(each.reason, each.severity) for each in found]
    assert effects == {"reject": [("blank", "reject")], "flag": [("blank", "flag")], "off": []}


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://there/x'/></svg>",
        b"\xef\xbb\xbf  <?xml version='1.0'?>",
        b"<!DOCTYPE html><p>", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0", b"#!/bin/sh",
    ],
)  # fmt: skip
def test_what_could_execute_or_fetch_is_refused(data: bytes) -> None:
    assert reasons(data) == [("active_content", "reject")]
